# The NixOS modules: `services.serena-mcp`, and each daemon alone. `self` is this flake, whose packages they run.
_self: {
  imports = [ ];
}
