# What `nix run` starts: each daemon by its name, and Serena for the project in this directory by none.
{
  lib,
  pkgs,
  daemons,
  serena-mcp,
}:
let
  app = program: description: {
    type = "app";
    inherit program;
    meta = { inherit description; };
  };
  # From all of them together: a supervisor alone could not do `up`.
  whole = name: package: app (lib.getExe' serena-mcp name) package.meta.description;
  up = pkgs.writeShellScript "serena-mcp-up" ''
    exec ${lib.getExe serena-mcp} up "$@"
  '';
in
lib.mapAttrs whole daemons
// {
  default = app "${up}" "Serve Serena for the project in this directory, with sessions that survive";
}
