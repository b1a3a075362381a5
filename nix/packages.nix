# All that is built for one system: the daemons, all of them together, and on Linux the images.
{ pkgs, lib }:
let
  names = [
    "mcp-authd"
    "mcp-sessiond"
    "serena-snapshotd"
    "serena-supervise"
  ];
  daemons = lib.genAttrs names (name: pkgs.callPackage ../package.nix { inherit name; });
  serena-mcp = pkgs.callPackage ./serena-mcp.nix { daemons = lib.attrValues daemons; };
in
{
  inherit daemons serena-mcp;
  images = lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (
    pkgs.callPackage ./images.nix { inherit daemons serena-mcp; }
  );
}
