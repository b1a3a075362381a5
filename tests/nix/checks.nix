# Checks of the flake besides its packages, by name. They see the flake as a user does.
{
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  system = import ./system.nix {
    inherit
      lib
      nixpkgs
      pkgs
      self
      ;
  };
  homes = import ./homes.nix;
  home = import ./home.nix { inherit lib nixpkgs self; };
  platform = pkgs.stdenv.hostPlatform.system;
  units =
    name: configuration:
    let
      made = home platform configuration;
      copy = file: text: "cp ${pkgs.writeText "unit" text} $out/units/${file}\n";
    in
    pkgs.runCommand "home-${name}"
      {
        files = builtins.toJSON { inherit (made) files mcpServers; };
        passAsFile = [ "files" ];
      }
      ''
        mkdir -p $out/units $out/settings
        cp $filesPath $out/files.json
        ${lib.concatStrings (lib.mapAttrsToList copy made.units)}
        for unit in $out/units/*.service; do
          settings=$(sed -n 's/^ExecStart=.* --config \([^ ]*\).*$/\1/p' "$unit")
          cp "$settings" "$out/settings/$(basename "$unit" .service).toml"
        done
      '';
  # Agents are read on any machine: nothing of them is built.
  agents =
    name: configuration:
    pkgs.writeText "launchd-${name}.json" (
      builtins.unsafeDiscardStringContext (builtins.toJSON (home "aarch64-darwin" configuration))
    );
in
lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (
  lib.mapAttrs' (name: configuration: lib.nameValuePair "nixos-${name}" (system name configuration)) (
    import ./configurations.nix { inherit lib; }
  )
  // lib.mapAttrs' (name: configuration: lib.nameValuePair "home-${name}" (units name configuration)) homes
  // lib.mapAttrs' (name: configuration: lib.nameValuePair "launchd-${name}" (agents name configuration)) homes
)
