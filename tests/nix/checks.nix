# Checks of the flake besides its packages, by name. They see the flake as a user does.
{
  lib,
  nixpkgs,
  pkgs,
  self,
}:
{ }
