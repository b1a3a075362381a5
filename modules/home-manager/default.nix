# The home-manager module `services.serena-mcp`: Serena for the clients of one person, on Linux as systemd user units, on
# macOS as launchd agents. `self` is this flake, whose packages it runs.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.serena-mcp;
  inherit (lib) mkOption types;
  inherit (pkgs.stdenv.hostPlatform) isDarwin isLinux system;
  toml = import ../settings.nix { inherit lib pkgs; };
  home = config.home.homeDirectory;

  url = "http://${cfg.listen}/mcp";
  # What both platforms have: directories of this user alone.
  state = if isDarwin then "${home}/Library/Application Support/serena-mcp" else "${home}/.local/state";
  # macOS passes no sockets on, and the path of one has at most 103 bytes there.
  socket = "${home}/Library/Caches/serena-mcp/mcp.sock";

  file =
    daemon: settings: flags:
    toml.file {
      name = daemon;
      package = cfg.packages.${daemon};
      inherit settings flags;
    };
  sessiond = file "mcp-sessiond" (
    lib.recursiveUpdate {
      listen = [ (if isLinux then "fd:mcp" else cfg.listen) ];
      state_dir = "${state}/mcp-sessiond";
    } cfg.sessiond
    # Where it is depends on who is logged in, so the unit says it.
  ) [ "--upstream" "unix:${socket}" "--without-files" ];
  supervise = file "serena-supervise" {
    instance.serena = lib.recursiveUpdate (
      {
        inherit (cfg) command home;
        # Braces are places that serena-supervise fills in.
        env = lib.mapAttrs (_: builtins.replaceStrings [ "{" ] [ "{{" ]) cfg.environment;
        socket = if isLinux then "fd:mcp" else "unix:${socket}";
      }
      // lib.optionalAttrs (isDarwin && cfg.snapshots.enable) {
        # launchd starts everything at once; here Serena waits for its home.
        hooks.before_start.command = [
          (exe "serena-snapshotd")
          "restore"
          "--config"
          "${snapshotd}"
        ];
      }
    ) cfg.settings;
  } [ ];
  snapshotd = file "serena-snapshotd" (
    lib.recursiveUpdate {
      inherit (cfg) home;
      inherit (cfg.snapshots) interval partition;
      state_dir = "${state}/serena-snapshotd";
    } cfg.snapshots.settings
  ) [ ];

  exe = daemon: lib.getExe cfg.packages.${daemon};
  path = lib.makeBinPath (
    cfg.path
    ++ [
      pkgs.git
      pkgs.python3
      pkgs.uv
    ]
  );

  service = description: stop: {
    Unit = {
      Description = description;
      StartLimitIntervalSec = 0;
    };
    Service = {
      Type = "notify";
      ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
      NoNewPrivileges = true;
      Restart = "always";
      RestartPreventExitStatus = "64 78";
      RestartSec = 1;
      TimeoutStopSec = stop;
      WatchdogSec = 30;
    };
  };
  userSocket = description: stream: {
    Unit.Description = description;
    Socket = {
      FileDescriptorName = "mcp";
      ListenStream = stream;
      SocketMode = "0600";
    };
    Install.WantedBy = [ "sockets.target" ];
  };

  # `stop`: seconds that it may take to end, before launchd kills it.
  agent = stop: arguments: {
    enable = true;
    config = {
      ProgramArguments = arguments;
      EnvironmentVariables.PATH = "${path}:/usr/bin:/bin:/usr/sbin:/sbin";
      ExitTimeOut = stop;
      # Wrong settings do not get better by trying again, and launchd knows no exit codes: it waits between two tries.
      KeepAlive.SuccessfulExit = false;
      ProcessType = "Background";
      RunAtLoad = true;
      ThrottleInterval = 10;
      StandardErrorPath = "${home}/Library/Logs/${baseNameOf (lib.head arguments)}.log";
      StandardOutPath = "${home}/Library/Logs/${baseNameOf (lib.head arguments)}.log";
    };
  };
in
{
  options.services.serena-mcp = {
    enable = lib.mkEnableOption "Serena for MCP clients, with sessions that survive";

    packages = mkOption {
      type = types.attrsOf types.package;
      default = lib.genAttrs [
        "mcp-sessiond"
        "serena-snapshotd"
        "serena-supervise"
      ] (name: self.packages.${system}.${name});
      defaultText = lib.literalExpression "self.packages.\${system}";
      description = "Packages to run, by the names of the daemons.";
    };

    listen = mkOption {
      type = types.str;
      default = "127.0.0.1:9121";
      description = "Where clients connect. There are no tokens: other users of the machine can, too.";
    };

    project = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/home/me/project";
      description = "The project that Serena opens. Null: none, clients activate one.";
    };

    home = mkOption {
      type = types.str;
      default = "${home}/.serena";
      defaultText = "~/.serena";
      description = "SERENA_HOME. Two Serenas on one home lose entries of it.";
    };

    serena = mkOption {
      type = types.nullOr types.package;
      default = null;
      description = "A package with `bin/serena`. Null: uvx fetches the pinned release at the first start.";
    };

    extraArguments = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "--agent-interface"
        "tools"
      ];
      description = "More arguments for Serena.";
    };

    command = mkOption {
      type = types.listOf types.str;
      default =
        (
          if cfg.serena == null then
            [
              (lib.getExe' pkgs.uv "uvx")
              "--from"
              "serena-agent==2.1.0"
              "serena"
            ]
          else
            [ (lib.getExe' cfg.serena "serena") ]
        )
        ++ [
          "start-mcp-server"
          "--transport"
          "streamable-http"
          "--host"
          "127.0.0.1"
          "--port"
          "{port}"
          "--open-web-dashboard"
          "false"
        ]
        ++ lib.optionals (cfg.project != null) [
          "--project"
          cfg.project
        ]
        ++ cfg.extraArguments;
      defaultText = "Serena on a port of 127.0.0.1, by uvx or from the option serena";
      description = "Another MCP server instead of Serena: program and arguments, no shell; `{port}` is where it is to listen.";
    };

    path = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.gopls pkgs.rust-analyzer ]";
      description = "Packages on its PATH: language servers, and what its tools call.";
    };

    environment = mkOption {
      type = types.attrsOf types.str;
      default = { };
      description = "Its environment variables. They stand in the Nix store: no secrets.";
    };

    settings = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        sleep_after = "1h";
      };
      description = "All other settings of `[instance.serena]`, see docs/serena-supervise.toml.";
    };

    sessiond = mkOption {
      inherit (toml) type;
      default = { };
      description = "All other settings of mcp-sessiond, see docs/mcp-sessiond.toml.";
    };

    snapshots = {
      enable = lib.mkEnableOption "snapshots of SERENA_HOME";

      partition = mkOption {
        type = types.str;
        default = "laptop";
        description = "The name of this home in the store; no two homes may have one name.";
      };

      interval = mkOption {
        type = types.str;
        default = "3m";
        description = "Time from the end of a snapshot to the next.";
      };

      settings = mkOption {
        inherit (toml) type;
        default = { };
        example = {
          store = "s3://serena-state/homes";
          s3.access_key_file = "/run/user/1000/secrets/s3-id";
          s3.secret_key_file = "/run/user/1000/secrets/s3-secret";
        };
        description = "All other settings, see docs/serena-snapshotd.toml. Secrets are files; their paths stand here.";
      };
    };

    clients = lib.genAttrs [ "cursor" "vscode" ] (
      name: lib.mkEnableOption "a configuration of ${name} for all its projects, which then belongs to home-manager"
    );

    mcpServers = mkOption {
      type = types.attrs;
      default.serena = {
        type = "http";
        inherit url;
      };
      readOnly = true;
      description = ''
        For modules that write a client's configuration:
        `programs.claude-code.mcpServers = config.services.serena-mcp.mcpServers`.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        home.packages = lib.attrValues cfg.packages;
        home.file = lib.mkMerge [
          (lib.mkIf cfg.clients.cursor {
            ".cursor/mcp.json".text = builtins.toJSON { inherit (cfg) mcpServers; };
          })
          (lib.mkIf cfg.clients.vscode {
            "${
              if isDarwin then "Library/Application Support/Code/User" else ".config/Code/User"
            }/mcp.json".text = builtins.toJSON { servers = cfg.mcpServers; };
          })
        ];
      }

      (lib.mkIf isLinux {
        systemd.user.sockets = {
          mcp-sessiond = userSocket "MCP sessions that survive, socket" cfg.listen;
          serena-supervise = userSocket "Serena, socket" "%t/serena-mcp/mcp.sock";
        };
        systemd.user.services = {
          mcp-sessiond = lib.recursiveUpdate (service "MCP sessions that survive" 20) {
            Unit.After = [ "mcp-sessiond.socket" ];
            Unit.Wants = [ "mcp-sessiond.socket" ];
            Service.ExecStart = "${exe "mcp-sessiond"} --config ${sessiond} --upstream unix:%t/serena-mcp/mcp.sock";
          };
          serena-supervise = lib.recursiveUpdate (service "Serena, started when it is needed" 90) {
            Unit.After = [ "serena-supervise.socket" ] ++ lib.optional cfg.snapshots.enable "serena-snapshotd.service";
            Unit.Wants = [ "serena-supervise.socket" ] ++ lib.optional cfg.snapshots.enable "serena-snapshotd.service";
            Service = {
              Delegate = true;
              Environment = "PATH=${path}:/run/current-system/sw/bin:/usr/bin:/bin";
              ExecStart = "${exe "serena-supervise"} run --config ${supervise}";
              KillMode = "mixed";
              OOMPolicy = "continue";
            };
          };
        }
        // lib.optionalAttrs cfg.snapshots.enable {
          serena-snapshotd = lib.recursiveUpdate (service "Snapshots of SERENA_HOME" 40) {
            Install.WantedBy = [ "default.target" ];
            Service = {
              ExecStart = "${exe "serena-snapshotd"} run --config ${snapshotd}";
              TimeoutStartSec = 600;
            };
          };
        };
      })

      (lib.mkIf isDarwin {
        assertions = [
          {
            assertion = builtins.stringLength socket <= 103;
            message = "services.serena-mcp: `${socket}` is too long for a socket on macOS.";
          }
        ];
        launchd.agents = {
          mcp-sessiond = agent 20 [
            (exe "mcp-sessiond")
            "--config"
            "${sessiond}"
            "--upstream"
            "unix:${socket}"
          ];
          serena-supervise = agent 90 [
            (exe "serena-supervise")
            "run"
            "--config"
            "${supervise}"
          ];
        }
        // lib.optionalAttrs cfg.snapshots.enable {
          serena-snapshotd = agent 40 [
            (exe "serena-snapshotd")
            "run"
            "--config"
            "${snapshotd}"
          ];
        };
      })
    ]
  );
}
