# Systems that people may want, for the tests that look at their units or boot them.
{ lib }:
let
  secret = name: "/run/keys/${name}";
  server = name: [
    "/rig/server"
    "--port"
    "{port}"
    "--log"
    "/var/lib/serena/${name}/journal"
  ];
in
{
  # One option: everything else is found, made or left out.
  minimal.services.serena-mcp.enable = true;

  # All daemons, on a server: TLS, JWT, an address for others, a firewall, limits.
  all.services.serena-mcp = {
    enable = true;
    listen = [
      "0.0.0.0:443"
      "[::1]:9120"
    ];
    openFirewall = true;
    instances.alice = {
      project = "/home/alice/project";
      user = "alice";
      memory = "4GiB";
      extraArguments = [
        "--agent-interface"
        "tools"
      ];
      environment.RUST_LOG = "debug";
      settings.sleep_after = "1h";
    };
    routes.carol = "alice";
    tokens = {
      alice = secret "alice";
      carol = secret "carol";
    };
    tls = {
      certificate = "/var/lib/certificates/fullchain.pem";
      key = "/var/lib/certificates/key.pem";
    };
    authd = {
      rate.subject_per_second = 50;
      jwt = [
        {
          issuer = "https://login.example.org";
          audience = [ "https://mcp.example.org/mcp" ];
          algorithms = [ "RS256" ];
          jwks = "https://login.example.org/jwks.json";
        }
      ];
    };
    sessiond.limits.parked_time = "10m";
  };

  # Two that must not reach each other, and need no Internet.
  isolated.services.serena-mcp = {
    enable = true;
    instances = lib.genAttrs [ "alice" "bob" ] (name: {
      internet = false;
      project = "/srv/${name}";
    });
    tokens = lib.genAttrs [ "alice" "bob" ] secret;
  };

  # Snapshots to a bucket, and nginx in front.
  s3 = {
    services.serena-mcp = {
      enable = true;
      openFirewall = true;
      nginx.host = "mcp.example.org";
      tokensFile = secret "tokens.toml";
      snapshots = {
        store = "s3://serena-state/homes";
        interval = "10m";
        accessKeyIdFile = secret "s3-id";
        secretAccessKeyFile = secret "s3-secret";
        settings = {
          s3.endpoint = "https://s3.example.org";
          keep.daily = 14;
        };
      };
    };
  };

  # One daemon without the others.
  sessiond.services.mcp-sessiond = {
    enable = true;
    listen = [
      "127.0.0.1:9121"
      "unix:/run/mcp/mcp.sock"
    ];
    upstream = "https://mcp.example.org/mcp";
    tokenFile = secret "mcp-token";
  };

  # What is booted: a small server instead of Serena, beside one that has no network.
  boot.services.serena-mcp = {
    enable = true;
    instances.default.command = server "default";
    instances.alone = {
      command = server "alone";
      internet = false;
    };
    # Only the last one, at the stop.
    snapshots.interval = "1h";
  };

  # The plain files in packaging/systemd: tests/nix/tests/packaging makes templates of the one instance.
  packaging.services.serena-mcp = {
    enable = true;
    instances.instance-name = { };
    tokensFile = "/etc/serena-mcp/tokens.toml";
  };

  # The modules are there and nobody asked for anything.
  off.services.serena-mcp.enable = false;
}
