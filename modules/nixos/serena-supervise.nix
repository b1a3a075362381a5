# services.serena-supervise: MCP servers, each in a unit of its own: its user, its home, its processes and none left over.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.serena-supervise;
  inherit (lib) mkOption types;
  addresses = import ../addresses.nix { inherit lib; };
  hardening = import ../hardening.nix;
  toml = import ../settings.nix { inherit lib pkgs; };

  isHidden = path: lib.any (root: lib.hasPrefix root path) [
    "/home"
    "/root"
    "/run/user"
  ];

  instance =
    { name, config, ... }:
    {
      options = {
        command = mkOption {
          type = types.listOf types.str;
          example = [
            "serena"
            "start-mcp-server"
            "--transport"
            "streamable-http"
            "--port"
            "{port}"
          ];
          description = "Program and arguments, no shell; `{port}` is where it is to listen, on 127.0.0.1.";
        };

        listen = mkOption {
          type = types.listOf types.str;
          default = [ "unix:/run/serena/${name}/mcp.sock" ];
          description = "Where clients connect. systemd owns these sockets; the first connection starts the server.";
        };

        aliases = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [ "/run/serena/bob/mcp.sock" ];
          description = "More paths that lead to the Unix socket.";
        };

        group = mkOption {
          type = types.str;
          default = "serena-mcp";
          description = "Whose members may open the Unix sockets in `listen`. The server itself should not be one.";
        };

        user = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "alice";
          description = ''
            The user that the server and its tools run as: whoever owns the files that they work on. Null is a user of its
            own, `serena-NAME`.
          '';
        };

        home = mkOption {
          type = types.str;
          default = "/var/lib/serena/${name}/home";
          description = "Its SERENA_HOME. Locks stand beside it, in a directory that only its user and root may enter.";
        };

        directory = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "/srv/project";
          description = "Its working directory.";
        };

        path = mkOption {
          type = types.listOf types.package;
          default = [ ];
          example = lib.literalExpression "[ pkgs.gopls pkgs.git ]";
          description = "Packages on its PATH: language servers, and what its tools call.";
        };

        environment = mkOption {
          type = types.attrsOf types.str;
          default = { };
          description = "Its environment variables. Everybody can read these: no secrets.";
        };

        internet = mkOption {
          type = types.bool;
          default = true;
          description = ''
            Whether it has a network. Without one it has a loopback device of its own, so that no other process of the
            machine can reach its port and its tools reach nobody; its clients come through the socket all the same.
          '';
        };

        settings = mkOption {
          inherit (toml) type;
          default = { };
          example = {
            sleep_after = "1h";
            limits.memory_hard = "4GiB";
          };
          description = ''
            All other settings of `[instance.NAME]`, see docs/serena-supervise.toml; they win over the options above. Checked
            at build time.
          '';
        };

        userName = mkOption {
          type = types.str;
          default = if config.user == null then "serena-${name}" else config.user;
          readOnly = true;
          internal = true;
          description = "Who it runs as.";
        };
      };
    };

  file =
    name: one:
    toml.file {
      name = "serena-supervise-${name}";
      inherit (cfg) package;
      settings.instance.${name} = lib.recursiveUpdate {
        inherit (one) command home directory;
        socket = "fd:mcp";
      } one.settings;
    };

  socket = name: one: {
    description = "MCP server ${name}, socket";
    wantedBy = [ "sockets.target" ];
    listenStreams = map addresses.stream one.listen;
    socketConfig = {
      Backlog = 4096;
      FileDescriptorName = "mcp";
      SocketGroup = one.group;
      SocketMode = "0660";
    }
    // lib.optionalAttrs (one.aliases != [ ]) { Symlinks = one.aliases; };
  };

  service = name: one: {
    description = "MCP server ${name}, started when it is needed";
    wants = [ "serena-supervise-${name}.socket" ];
    after = [
      "serena-supervise-${name}.socket"
      "network.target"
    ];
    inherit (one) environment path;
    unitConfig.StartLimitIntervalSec = 0;
    # Not `hardening.daemon`: what runs here are somebody's tools, on somebody's files. They compile, start interpreters
    # and debuggers, and need what those need.
    serviceConfig =
      hardening.everybody
      // hardening.restart
      // {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} run --config ${file name one}";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        User = one.userName;
        # Each start of the server gets a cgroup of its own, from which no process can escape.
        Delegate = true;
        # It stops its server itself; what still runs after that is killed.
        KillMode = "mixed";
        # A tool that took all memory is no reason to end the supervisor.
        OOMPolicy = "continue";
        ProtectHome = !(lib.any isHidden ([ one.home (toString one.directory) ])) && one.user == null;
        ProtectSystem = true;
        RuntimeDirectory = "serena-supervise/${name}";
        # More than `grace` and all of `stop` together, 60 s.
        TimeoutStopSec = 90;
      }
      // lib.optionalAttrs (!one.internet) {
        PrivateNetwork = true;
        RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6 AF_NETLINK";
      };
  };

  # What is restored belongs to whom its directory belongs to.
  groupOf = user: (config.users.users.${user} or { }).group or "-";
  own = lib.filterAttrs (_: one: one.user == null) cfg.instances;
in
{
  options.services.serena-supervise = {
    enable = lib.mkEnableOption "serena-supervise, MCP servers that start when they are needed";

    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.serena-supervise;
      defaultText = lib.literalExpression "self.packages.\${system}.serena-supervise";
      description = "Package to run.";
    };

    instances = mkOption {
      type = types.attrsOf (types.submodule instance);
      default = { };
      description = "The servers, by name.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (
      lib.mapAttrsToList (name: one: [
        {
          assertion = builtins.match "[a-z0-9][a-z0-9._-]{0,62}" name != null;
          message = "services.serena-supervise.instances: `${name}` cannot be a name; use 1-63 of a-z 0-9 . _ - that begin with a letter or digit.";
        }
        {
          assertion = one.user != null || builtins.match "[a-z0-9_-]{1,24}" name != null;
          message = "services.serena-supervise.instances.${name}.user: `serena-${name}` cannot be a user's name; say who it runs as.";
        }
      ]) cfg.instances
    );

    users.groups =
      lib.mapAttrs' (_: one: lib.nameValuePair one.userName { }) own
      // lib.mapAttrs' (_: one: lib.nameValuePair one.group { }) cfg.instances;
    users.users = lib.mapAttrs' (
      name: one:
      lib.nameValuePair one.userName {
        isSystemUser = true;
        group = one.userName;
        home = "/var/lib/serena/${name}";
        description = "MCP server ${name}";
      }
    ) own;

    # Not StateDirectory=: a restore writes here before the server has ever run.
    systemd.tmpfiles.rules = [
      "d /var/lib/serena 0755 root root -"
    ]
    ++ lib.concatLists (
      lib.mapAttrsToList (
        _: one:
        lib.optional (lib.hasPrefix "/var/lib/serena/" one.home) "d ${dirOf one.home} 0700 ${one.userName} ${groupOf one.userName} -"
      ) cfg.instances
    );

    environment.systemPackages = [ cfg.package ];
    systemd.sockets = lib.mapAttrs' (
      name: one: lib.nameValuePair "serena-supervise-${name}" (socket name one)
    ) cfg.instances;
    systemd.services = lib.mapAttrs' (
      name: one: lib.nameValuePair "serena-supervise-${name}" (service name one)
    ) cfg.instances;
  };
}
