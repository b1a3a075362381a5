# services.serena-mcp: the whole stack. A client with a token -> mcp-authd -> mcp-sessiond -> the instance of its route,
# which serena-supervise starts; serena-snapshotd keeps its home safe. All addresses and orders are made here.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.serena-mcp;
  inherit (lib) mkOption types;
  toml = import ../settings.nix { inherit lib pkgs; };
  secrets = import ../secrets.nix { inherit lib; };

  sessions = "/run/serena-mcp/sessions.sock";
  ownTokens = "/var/lib/serena-mcp/tokens";
  # Nobody said who may come: each instance gets a token that is made at the first start.
  makesTokens = cfg.tokens == { } && cfg.tokensFile == null && !(cfg.authd ? jwt) && !(cfg.authd ? tokens);
  tokens = if makesTokens then lib.mapAttrs (name: _: "${ownTokens}/${name}") cfg.instances else cfg.tokens;
  units =
    [
      "mcp-authd"
      "mcp-sessiond"
    ]
    ++ map (name: "serena-supervise-${name}") (lib.attrNames cfg.instances);
  certificates = "/var/lib/acme/${toString cfg.tls.acmeHost}";

  instance =
    { name, config, ... }:
    {
      options = {
        project = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "/srv/project";
          description = "The project that Serena opens; its user must be able to write it. Null: none, clients activate one.";
        };

        user = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "alice";
          description = "The user that Serena and its tools run as: whoever owns the project. Null is one of its own, `serena-NAME`.";
        };

        path = mkOption {
          type = types.listOf types.package;
          default = [ ];
          example = lib.literalExpression "[ pkgs.gopls pkgs.rust-analyzer ]";
          description = "Packages on its PATH: language servers, and what its tools call.";
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

        environment = mkOption {
          type = types.attrsOf types.str;
          default = { };
          description = "Its environment variables. Everybody can read these: no secrets.";
        };

        memory = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "4GiB";
          description = "Serena is restarted where it and all its processes use more; clients notice a pause.";
        };

        internet = mkOption {
          type = types.bool;
          default = true;
          description = ''
            Whether it has a network: uvx, and language servers that Serena fetches, need one. Without it, nobody else on the
            machine can reach its port, and its tools reach nobody. With it, instances share the loopback device.
          '';
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
              "--enable-web-dashboard"
              "false"
              "--open-web-dashboard"
              "false"
            ]
            ++ lib.optionals (config.project != null) [
              "--project"
              config.project
            ]
            ++ config.extraArguments;
          defaultText = "Serena on a port of 127.0.0.1, by uvx or from the option serena";
          description = "Another MCP server instead of Serena: program and arguments, no shell; `{port}` is where it is to listen.";
        };

        settings = mkOption {
          inherit (toml) type;
          default = { };
          example = {
            sleep_after = "1h";
          };
          description = "All other settings of the instance, see docs/serena-supervise.toml.";
        };
      };
    };
in
{
  options.services.serena-mcp = {
    enable = lib.mkEnableOption "Serena for MCP clients: tokens, sessions that survive, processes that are looked after, snapshots";

    serena = mkOption {
      type = types.nullOr types.package;
      default = null;
      description = ''
        A package with `bin/serena`. Null: uvx fetches the pinned release at the first start, which needs the Internet, and
        wheels with libraries of their own need programs.nix-ld.
      '';
    };

    listen = mkOption {
      type = types.listOf types.str;
      default = [ "127.0.0.1:9120" ];
      example = [ "0.0.0.0:443" ];
      description = "Where clients connect. What is not loopback needs `tls`.";
    };

    instances = mkOption {
      type = types.attrsOf (types.submodule instance);
      default = {
        default = { };
      };
      example = {
        alice.project = "/home/alice/project";
        bob.project = "/home/bob/project";
      };
      description = "The Serenas, by name, which is also their route. Each has its own unit, user, home and processes.";
    };

    routes = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        carol = "alice";
      };
      description = "More routes: names of tokens that lead to an instance of another name.";
    };

    tokens = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = {
        alice = "/run/keys/alice";
      };
      description = ''
        Files with one token each (16 or more visible characters), or `sha256:` and its hash, by the name of the route. Never in
        the Nix store. With neither `tokens` nor `tokensFile`, each instance gets one at the first start, which root finds in
        `${ownTokens}/NAME`.
      '';
    };

    tokensFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/keys/tokens.toml";
      description = "Instead of `tokens`: one file as `mcp-authd token new` writes it, with routes, scopes and expiry.";
    };

    snapshots = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Keep the homes of all instances safe.";
      };

      store = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "s3://serena-state/homes";
        description = "Where, in a partition for each instance: `s3://bucket/prefix` or `file:///dir`. Null: a directory below /var/lib/serena-snapshotd.";
      };

      interval = mkOption {
        type = types.str;
        default = "3m";
        description = "Time from the end of a snapshot to the next.";
      };

      accessKeyIdFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/run/keys/s3-id";
        description = "File with the id of the bucket's key; never in the Nix store.";
      };

      secretAccessKeyFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/run/keys/s3-secret";
        description = "File with the bucket's secret key; never in the Nix store.";
      };

      settings = mkOption {
        inherit (toml) type;
        default = { };
        example = {
          s3.endpoint = "https://s3.example.org";
        };
        description = "All other settings, see docs/serena-snapshotd.toml.";
      };
    };

    tls = {
      certificate = mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "Certificates, PEM; clients then speak TLS.";
      };

      key = mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "The key of `certificate`; never in the Nix store.";
      };

      acmeHost = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "mcp.example.org";
        description = "Instead of both: a name in `security.acme.certs`.";
      };
    };

    nginx.host = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "mcp.example.org";
      description = "Serve at https://HOST/mcp through nginx with a certificate from ACME; `listen` then has loopback addresses only.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Let others reach the TCP addresses in `listen` that are not loopback, or nginx where that is used.";
    };

    authd = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        rate.subject_per_second = 50;
      };
      description = "All other settings of mcp-authd, see docs/mcp-authd.toml.";
    };

    sessiond = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        limits.parked_time = "10m";
      };
      description = "All other settings of mcp-sessiond, see docs/mcp-sessiond.toml.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions =
          lib.mapAttrsToList (route: name: {
            assertion = cfg.instances ? ${name};
            message = "services.serena-mcp.routes.${route}: there is no instance `${name}`; there are ${lib.concatStringsSep ", " (lib.attrNames cfg.instances)}.";
          }) cfg.routes
          ++ lib.mapAttrsToList (route: _: {
            assertion = !(cfg.instances ? ${route});
            message = "services.serena-mcp.routes.${route}: an instance has this name already.";
          }) cfg.routes
          ++ lib.mapAttrsToList (name: _: {
            assertion = cfg.instances ? ${name} || cfg.routes ? ${name};
            message = "services.serena-mcp.tokens.${name}: leads nowhere; there is neither an instance nor a route of this name.";
          }) cfg.tokens
          ++ [
            {
              assertion = cfg.tls.acmeHost == null || cfg.tls.certificate == null;
              message = "services.serena-mcp.tls: acmeHost and certificate are two ways to say one thing; use one of them.";
            }
            {
              assertion = cfg.nginx.host == null || lib.all (lib.hasPrefix "127.") cfg.listen;
              message = "services.serena-mcp.nginx.host: nginx comes over loopback; `listen` may have 127.0.0.1 addresses only.";
            }
          ]
          ++ secrets.assertions {
            "services.serena-mcp.tls.key" = cfg.tls.key;
            "services.serena-mcp.tokensFile" = cfg.tokensFile;
          };

        services.mcp-authd = {
          enable = true;
          inherit (cfg) listen tokensFile;
          inherit tokens;
          upstream = "unix:${sessions}";
          certificate = if cfg.tls.acmeHost == null then cfg.tls.certificate else "${certificates}/fullchain.pem";
          certificateKey = if cfg.tls.acmeHost == null then cfg.tls.key else "${certificates}/key.pem";
          openFirewall = cfg.openFirewall && cfg.nginx.host == null;
          settings =
            lib.optionalAttrs (cfg.nginx.host != null) {
              allowed_hosts = [ cfg.nginx.host ];
              public_url = "https://${cfg.nginx.host}/mcp";
              trusted_proxies = [ "127.0.0.1" ];
            }
            // cfg.authd;
        };

        services.mcp-sessiond = {
          enable = true;
          listen = [ "unix:${sessions}" ];
          trusted = true;
          upstream = "unix:/run/serena/{route}/mcp.sock";
          settings = cfg.sessiond;
        };

        services.serena-supervise = {
          enable = true;
          instances = lib.mapAttrs (name: one: {
            inherit (one)
              command
              internet
              user
              ;
            directory = one.project;
            path = [
              pkgs.git
              pkgs.python3
              pkgs.uv
            ]
            ++ one.path;
            # Those that uv would download do not run on NixOS.
            environment = {
              UV_PYTHON_DOWNLOADS = "never";
            }
            // one.environment;
            aliases = map (route: "/run/serena/${route}/mcp.sock") (
              lib.attrNames (lib.filterAttrs (_: to: to == name) cfg.routes)
            );
            settings = lib.recursiveUpdate (lib.optionalAttrs (one.memory != null) {
              limits.memory_hard = one.memory;
            }) one.settings;
          }) cfg.instances;
        };

        # One thing to start and to stop. Nobody is bound to anybody: one daemon's death must not stop another.
        systemd.targets.serena-mcp = {
          description = "Serena for MCP clients";
          wantedBy = [ "multi-user.target" ];
        };
        systemd.sockets = lib.genAttrs units (_: {
          wantedBy = [ "serena-mcp.target" ];
          partOf = [ "serena-mcp.target" ];
        });
        systemd.services = lib.genAttrs units (_: {
          partOf = [ "serena-mcp.target" ];
        });
      }

      (lib.mkIf cfg.snapshots.enable {
        services.serena-snapshotd = {
          enable = true;
          homes = lib.mapAttrs (
            name: _:
            {
              inherit (cfg.snapshots)
                accessKeyIdFile
                interval
                secretAccessKeyFile
                settings
                ;
              inherit (config.services.serena-supervise.instances.${name}) home;
            }
            // lib.optionalAttrs (cfg.snapshots.store != null) { inherit (cfg.snapshots) store; }
          ) cfg.instances;
        };
        systemd.services = lib.mkMerge (
          lib.mapAttrsToList (name: _: {
            "serena-snapshotd-${name}" = {
              wantedBy = [ "serena-mcp.target" ];
              partOf = [ "serena-mcp.target" ];
            };
            "serena-supervise-${name}".wants = [ "serena-snapshotd-${name}.service" ];
          }) cfg.instances
        );
      })

      (lib.mkIf makesTokens {
        systemd.services.serena-mcp-tokens = {
          description = "A token for each instance, made once";
          wantedBy = [ "serena-mcp.target" ];
          before = [ "mcp-authd.service" ];
          serviceConfig = (import ../hardening.nix).daemon // (import ../hardening.nix).sockets // {
            Type = "oneshot";
            RemainAfterExit = true;
            StateDirectory = "serena-mcp/tokens";
            StateDirectoryMode = "0700";
            ExecStart = pkgs.writeShellScript "serena-mcp-tokens" ''
              set -eu
              for name in ${lib.escapeShellArgs (lib.attrNames cfg.instances)}; do
                if [ ! -s "${ownTokens}/$name" ]; then
                  ${pkgs.coreutils}/bin/od -An -N32 -tx1 /dev/urandom | ${pkgs.coreutils}/bin/tr -d ' \n' > "${ownTokens}/.$name"
                  ${pkgs.coreutils}/bin/mv "${ownTokens}/.$name" "${ownTokens}/$name"
                fi
              done
            '';
          };
        };
        systemd.services.mcp-authd = {
          wants = [ "serena-mcp-tokens.service" ];
          after = [ "serena-mcp-tokens.service" ];
        };
      })

      (lib.mkIf (cfg.tls.acmeHost != null) {
        # A reload would show the unit its old credentials.
        security.acme.certs.${cfg.tls.acmeHost}.postRun = "systemctl try-restart mcp-authd.service";
        systemd.services.mcp-authd = {
          wants = [ "acme-${cfg.tls.acmeHost}.service" ];
          after = [ "acme-${cfg.tls.acmeHost}.service" ];
        };
      })

      (lib.mkIf (cfg.nginx.host != null) {
        networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
          80
          443
        ];
        services.nginx = {
          enable = true;
          virtualHosts.${cfg.nginx.host} = {
            enableACME = true;
            forceSSL = true;
            locations."/" = {
              proxyPass = "http://${lib.head cfg.listen}";
              recommendedProxySettings = false;
              # Streams are passed on as they come, and calls may take their time.
              extraConfig = ''
                proxy_http_version 1.1;
                proxy_buffering off;
                proxy_read_timeout 1d;
                proxy_set_header Connection "";
                proxy_set_header Host $host;
                proxy_set_header X-Forwarded-For $remote_addr;
                client_max_body_size 16m;
              '';
            };
          };
        };
      })
    ]
  );
}
