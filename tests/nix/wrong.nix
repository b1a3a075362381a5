# Configurations with one mistake each, by the words with which they are refused: while they are read, or while the
# settings are built. None of them may get as far as a boot.
{
  lib,
  nixpkgs,
  pkgs,
  self,
}:
let
  system = import ./system.nix {
    inherit
      lib
      nixpkgs
      pkgs
      self
      ;
  };
  stack = options: { services.serena-mcp = { enable = true; } // options; };
  cases = {
    token-in-the-store = {
      configuration = stack { tokens.default = ./wrong.nix; };
      expected = "services.mcp-authd.tokens.default: `";
    };
    token-that-leads-nowhere = {
      configuration = stack { tokens.alice = "/run/keys/alice"; };
      expected = "services.serena-mcp.tokens.alice: leads nowhere; there is neither an instance nor a route of this name.";
    };
    route-to-nobody = {
      configuration = stack { routes.carol = "alice"; };
      expected = "services.serena-mcp.routes.carol: there is no instance `alice`; there are default.";
    };
    certificate-without-key = {
      configuration = stack { tls.certificate = "/var/lib/certificates/fullchain.pem"; };
      expected = "services.mcp-authd: certificate and certificateKey go together.";
    };
    session-without-server = {
      configuration.services.mcp-sessiond.enable = true;
      expected = "services.mcp-sessiond: a session has one server; set either upstream or settings.exec.";
    };
    port-for-an-address = {
      configuration = stack { listen = 9120; };
      expected = "services.serena-mcp.listen' is not of type";
    };
    tokens-in-the-clear = {
      configuration = stack { listen = [ "0.0.0.0:9120" ]; };
      expected = "listen: others can reach 0.0.0.0:9120, and tokens would be sent in the clear; set [tls]";
    };
    misspelt-setting = {
      configuration = stack { authd.rate.subject_per_secnd = 50; };
      expected = "unknown field `subject_per_secnd`";
    };
    span-without-unit = {
      configuration = stack { instances.default.settings.sleep_after = "soon"; };
      expected = "instance.default.sleep_after: ";
    };
    interval-that-is-none = {
      configuration = stack { snapshots.interval = "often"; };
      expected = "interval: ";
    };
  };
in
{
  systems = lib.mapAttrs (name: case: system name case.configuration) cases;
  expected = lib.mapAttrs (_: case: case.expected) cases;
}
