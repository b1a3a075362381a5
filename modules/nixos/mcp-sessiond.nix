# services.mcp-sessiond: sessions that survive, in front of one server or of one for each route.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-sessiond;
  inherit (lib) mkOption types;
  addresses = import ../addresses.nix { inherit lib; };
  hardening = import ../hardening.nix;
  secrets = import ../secrets.nix { inherit lib; };
  toml = import ../settings.nix { inherit lib pkgs; };

  settings = lib.recursiveUpdate (
    {
      inherit (cfg) upstream;
      state_dir = "/var/lib/mcp-sessiond";
    }
    // lib.optionalAttrs (cfg.tokenFile != null) {
      token_file = "/run/credentials/mcp-sessiond.service/token";
    }
    // (
      if cfg.trusted then
        {
          listener = [
            {
              address = "fd:mcp";
              trusted = true;
            }
          ];
        }
      else
        { listen = [ "fd:mcp" ]; }
    )
  ) cfg.settings;
  runsServers = settings ? exec;
  isLocal = lib.hasPrefix "unix:" (toString cfg.upstream) && !(settings ? observe);
in
{
  options.services.mcp-sessiond = {
    enable = lib.mkEnableOption "mcp-sessiond, the proxy that keeps MCP sessions whole";

    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.mcp-sessiond;
      defaultText = lib.literalExpression "self.packages.\${system}.mcp-sessiond";
      description = "Package to run.";
    };

    listen = mkOption {
      type = types.listOf types.str;
      default = [ "127.0.0.1:9121" ];
      example = [ "unix:/run/mcp/mcp.sock" ];
      description = ''
        Where clients connect. systemd owns these sockets: the first connection starts the daemon, and none is refused
        while it restarts. It authenticates nobody: whoever reaches an address can use the server.
      '';
    };

    upstream = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "http://127.0.0.1:8080/mcp";
      description = ''
        The MCP server: `http://host/mcp`, `https://host/mcp` or `unix:/run/x.sock`. `{route}` is replaced by the route
        that mcp-authd names. Null with `settings.exec`.
      '';
    };

    trusted = mkOption {
      type = types.bool;
      default = false;
      description = "Believe the identity headers of whoever may open the Unix sockets in `listen`, as mcp-authd sends them.";
    };

    group = mkOption {
      type = types.str;
      default = "serena-mcp";
      description = "Whose members may open the Unix sockets in `listen`.";
    };

    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "me";
      description = ''
        The user to run as; null is one of its own that exists while it runs. The servers of `settings.exec` need the one
        whose files they work on.
      '';
    };

    tokenFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/keys/mcp-token";
      description = "File with a bearer token for the server. Read by root, given to this unit alone, never in the Nix store.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Let others reach the TCP addresses in `listen` that are not loopback.";
    };

    settings = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        limits.parked_time = "10m";
      };
      description = "All other settings, see docs/mcp-sessiond.toml; they win over the options above. Checked at build time.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.upstream == null) == runsServers;
        message = "services.mcp-sessiond: a session has one server; set either upstream or settings.exec.";
      }
      {
        assertion = runsServers -> cfg.user != null;
        message = "services.mcp-sessiond.user: the servers of settings.exec work on somebody's files; say whose.";
      }
      {
        assertion = cfg.trusted -> lib.all addresses.isUnix cfg.listen;
        message = "services.mcp-sessiond.trusted: everybody can write headers over TCP; `listen` may have Unix sockets only.";
      }
      {
        assertion = !(lib.any (lib.hasPrefix "unix:/run/mcp-sessiond/") cfg.listen);
        message = "services.mcp-sessiond.listen: /run/mcp-sessiond is the daemon's own and closed to others; use another directory.";
      }
    ]
    ++ secrets.assertions { "services.mcp-sessiond.tokenFile" = cfg.tokenFile; };

    users.groups.${cfg.group} = { };
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (addresses.openPorts cfg.listen);
    environment.systemPackages = [ cfg.package ];

    systemd.sockets.mcp-sessiond = {
      description = "MCP sessions that survive, sockets";
      wantedBy = [ "sockets.target" ];
      listenStreams = map addresses.stream cfg.listen;
      socketConfig = {
        Backlog = 4096;
        FileDescriptorName = "mcp";
        SocketGroup = cfg.group;
        SocketMode = "0660";
      };
    };

    systemd.services.mcp-sessiond = {
      description = "MCP sessions that survive";
      documentation = [ "https://modelcontextprotocol.io" ];
      wants = [ "mcp-sessiond.socket" ];
      after = [
        "mcp-sessiond.socket"
        "network.target"
      ];
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig =
        (if runsServers then hardening.everybody else hardening.daemon)
        // lib.optionalAttrs (!runsServers) (if isLocal then hardening.sockets else hardening.network)
        // hardening.restart
        // {
          Type = "notify";
          ExecStart = "${lib.getExe cfg.package} --config ${
            toml.file {
              name = "mcp-sessiond";
              inherit (cfg) package;
              inherit settings;
              flags = [ "--without-files" ];
            }
          }";
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          # Two for each connection.
          LimitNOFILE = 65536;
          RuntimeDirectory = "mcp-sessiond";
          StateDirectory = "mcp-sessiond";
          StateDirectoryMode = "0700";
          SupplementaryGroups = cfg.group;
          # More than `grace`, 10 s.
          TimeoutStopSec = 20;
        }
        // (if cfg.user == null then { DynamicUser = true; } else { User = cfg.user; })
        // lib.optionalAttrs (cfg.tokenFile != null) { LoadCredential = secrets.load { token = cfg.tokenFile; }; };
    };
  };
}
