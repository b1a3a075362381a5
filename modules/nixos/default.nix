# NixOS modules: the whole stack (services.serena-mcp), and each daemon alone.
self: {
  imports = [
    (import ./mcp-authd.nix self)
    (import ./mcp-sessiond.nix self)
    (import ./serena-snapshotd.nix self)
    (import ./serena-supervise.nix self)
    ./serena-mcp.nix
  ];
}
