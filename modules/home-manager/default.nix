# The home-manager module `services.serena-mcp`. `self` is this flake, whose packages it runs.
_self: {
  imports = [ ];
}
