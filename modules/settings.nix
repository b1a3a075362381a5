# A daemon's settings as TOML, read by the daemon itself while Nix builds: what it would refuse at its start fails the
# build, and `nixos-rebuild switch` leaves the running system as it is.
{ lib, pkgs }:
let
  format = pkgs.formats.toml { };
  # TOML has no null: an option that is null says nothing.
  said =
    value:
    if lib.isAttrs value && !lib.isDerivation value then
      lib.mapAttrs (_: said) (lib.filterAttrs (_: one: one != null) value)
    else
      value;
in
{
  inherit (format) type;

  # `settings` under `name`, checked by `package` with more `flags` of its `check`.
  file =
    {
      name,
      package,
      settings,
      flags ? [ ],
    }:
    let
      written = format.generate "${name}.toml" (said settings);
    in
    # A foreign daemon cannot be asked.
    if !pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      written
    else
      pkgs.runCommand "${name}.toml" { } ''
        STATE_DIRECTORY=/var/empty ${lib.getExe package} check --config ${written} ${lib.escapeShellArgs flags}
        cp ${written} $out
      '';
}
