# What CONTRIBUTING.md asks for, and what `tests/run` would install or leave out otherwise.
{
  mkShell,
  cargo-deny,
  cargo-nextest,
  clippy,
  nodejs,
  python3,
  rust-analyzer,
  rustfmt,
  uv,
  # The packages whose dependencies a build here needs.
  daemons,
}:
mkShell {
  inputsFrom = daemons;
  packages = [
    cargo-deny
    cargo-nextest
    clippy
    nodejs
    python3
    rust-analyzer
    rustfmt
    uv
  ];
}
