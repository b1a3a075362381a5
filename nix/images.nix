# OCI images: all daemons under serena-supervise, and each daemon alone. `docker load < $(nix build .#image --print-out-paths)`.
{
  lib,
  dockerTools,
  runCommand,
  bashInteractive,
  cacert,
  coreutils,
  findutils,
  git,
  gnugrep,
  gnused,
  nodejs,
  python3,
  uv,
  # By name.
  daemons,
  # All of them, wrapped.
  serena-mcp,
}:
{ }
