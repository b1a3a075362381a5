# Addresses as the daemons spell them, `127.0.0.1:9121` and `unix:/run/x.sock`, for units and firewalls.
{ lib }:
rec {
  isUnix = lib.hasPrefix "unix:";

  # What systemd's ListenStream= wants.
  stream = lib.removePrefix "unix:";

  # The port of a TCP address.
  port = address: lib.toInt (lib.last (lib.splitString ":" address));

  isLoopback = address: lib.hasPrefix "127." address || lib.hasPrefix "[::1]:" address;

  # Ports that a firewall has to let through.
  openPorts = addresses: map port (lib.filter (one: !isUnix one && !isLoopback one) addresses);
}
