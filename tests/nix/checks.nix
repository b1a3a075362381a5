# Checks of the flake besides its packages, by name. They see the flake as a user does.
{
  lib,
  nixpkgs,
  pkgs,
  self,
}:
lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (
  lib.mapAttrs' (name: lib.nameValuePair "nixos-${name}") (
    import ./systems.nix {
      inherit
        lib
        nixpkgs
        pkgs
        self
        ;
    }
  )
)
