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
in
lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (
  lib.mapAttrs' (name: configuration: lib.nameValuePair "nixos-${name}" (system name configuration)) (
    import ./configurations.nix { inherit lib; }
  )
)
