# What CONTRIBUTING.md asks for, and what `tests/run` would install or leave out otherwise.
{
  mkShell,
  cargo,
  cargo-deny,
  cargo-nextest,
  clippy,
  nodejs,
  python3,
  rust-analyzer,
  rustc,
  rustfmt,
  uv,
  # The packages whose dependencies a build here needs.
  daemons,
}:
mkShell {
  inputsFrom = daemons;
  packages = [
    cargo
    cargo-deny
    cargo-nextest
    clippy
    nodejs
    python3
    rust-analyzer
    rustc
    rustfmt
    uv
  ];
}
