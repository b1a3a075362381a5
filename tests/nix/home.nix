# What the home-manager module makes of a configuration, with home-manager's options as far as it uses them: a text for each
# systemd user unit on Linux, an attribute set for each launchd agent on macOS.
{
  lib,
  nixpkgs,
  self,
}:
system: configuration:
let
  home = import ./stand-in/home.nix {
    inherit (nixpkgs) lib;
    pkgsFor = system: nixpkgs.legacyPackages.${system};
  };
  inherit
    (home {
      inherit system;
      modules = [
        self.homeModules.default
        configuration
        {
          home = {
            username = "me";
            homeDirectory = if lib.hasSuffix "darwin" system then "/Users/me" else "/home/me";
            stateVersion = "26.05";
          };
        }
      ];
    })
    config
    ;
  failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
in
if failed != [ ] then
  throw "Failed assertions:\n${lib.concatMapStrings (one: "- ${one}\n") failed}"
else
  {
    units = config.rendered;
    agents = lib.mapAttrs (_: agent: agent.config) config.launchd.agents;
    files = lib.mapAttrs (_: file: file.text) config.home.file;
    inherit (config.services.serena-mcp) mcpServers;
  }
