# Homes that people may want, for the tests that look at their units and agents, or start them.
{
  # One option.
  minimal.services.serena-mcp.enable = true;

  # All of it.
  all.services.serena-mcp = {
    enable = true;
    listen = "127.0.0.1:9999";
    project = "/home/me/project";
    environment.RUST_LOG = "debug";
    settings.sleep_after = "1h";
    sessiond.limits.parked_time = "10m";
    snapshots.enable = true;
    clients = {
      cursor = true;
      vscode = true;
    };
  };

  # What is started: a small server instead of Serena.
  boot.services.serena-mcp = {
    enable = true;
    command = [
      "/rig/server"
      "--port"
      "{port}"
      "--log"
      "/home/me/journal"
    ];
    snapshots = {
      enable = true;
      interval = "1h";
    };
  };
}
