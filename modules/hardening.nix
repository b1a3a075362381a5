# What the units may do: as little as each needs.
rec {
  # What nobody needs, not even a server that runs somebody's tools.
  everybody = {
    LockPersonality = true;
    NoNewPrivileges = true;
    PrivateTmp = true;
    ProtectClock = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
  };

  # For daemons that start no program of anybody else's.
  daemon = everybody // {
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    # Does not hold for the sockets that systemd hands over: those are of their own unit.
    IPAddressDeny = "any";
    MemoryDenyWriteExecute = true;
    PrivateDevices = true;
    PrivateMounts = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = "AF_UNIX";
    RestrictNamespaces = true;
    # A call that is filtered fails, as it does on kernels that do not have it.
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    UMask = "0077";
  };

  # Over `daemon`: no network but what systemd hands over.
  sockets = {
    PrivateNetwork = true;
  };

  # Over `daemon`: it connects to others by itself.
  network = {
    IPAddressDeny = "";
    RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6";
  };

  # How each of them is started again: always, but where that cannot help (wrong flags, wrong settings).
  restart = {
    Restart = "always";
    RestartPreventExitStatus = "64 78";
    RestartSec = 1;
    WatchdogSec = 30;
  };
}
