# What the NixOS module makes of a configuration, as files: `units/`, `settings/` that they start with, `tmpfiles`, and
# what else the system would have in `system.json`.
{
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  ours = name: lib.any (one: lib.hasPrefix one name) [
    "mcp-"
    "serena-"
  ];
  system =
    configuration:
    nixpkgs.lib.nixosSystem {
      modules = [
        self.nixosModules.default
        {
          nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
          boot.isContainer = true;
          system.stateVersion = "26.05";
        }
        configuration
      ];
    };
in
name: configuration:
let
  inherit (system configuration) config;
  # As NixOS does it where the whole system is built.
  failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
  units = lib.filterAttrs (unit: _: ours unit) config.systemd.units;
  users = lib.filterAttrs (user: _: ours user) config.users.users;
  facts = {
    users = lib.mapAttrs (_: user: {
      inherit (user) group;
      home = user.home or "/var/empty";
    }) users;
    groups = lib.filter ours (lib.attrNames config.users.groups);
    ports = config.networking.firewall.allowedTCPPorts or [ ];
    sites = lib.attrNames (config.services.nginx.virtualHosts or { });
    wanted = lib.mapAttrs (_: unit: unit.wantedBy) units;
  };
in
if failed != [ ] then
  throw "Failed assertions:\n${lib.concatMapStrings (one: "- ${one}\n") failed}"
else
  pkgs.runCommand "nixos-${name}"
    {
      facts = builtins.toJSON facts;
      tmpfiles = lib.concatMapStrings (rule: "${rule}\n") (
        lib.filter (lib.hasInfix "/var/lib/serena") config.systemd.tmpfiles.rules
      );
      passAsFile = [
        "facts"
        "tmpfiles"
      ];
    }
    ''
      mkdir -p $out/units $out/settings
      cp $factsPath $out/system.json
      cp $tmpfilesPath $out/tmpfiles
      ${lib.concatStrings (lib.mapAttrsToList (file: unit: "cp ${unit.unit}/${file} $out/units/\n") units)}
      for unit in $out/units/*.service; do
        [ -e "$unit" ] || continue
        settings=$(sed -n 's/^ExecStart=.* --config \([^ ]*\)$/\1/p' "$unit")
        [ -z "$settings" ] || cp "$settings" "$out/settings/$(basename "$unit" .service).toml"
      done
    ''
