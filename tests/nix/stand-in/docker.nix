# dockerTools: an image as `docker save` writes it, with one layer for the whole closure.
#
# What the closure's links lead to is this machine's: the image can be listed, and its programs run here, but nowhere else.
{ drv, lib }:
{
  usrBinEnv = drv "usr-bin-env" { } ''
    mkdir -p "$out/usr/bin"
    ln -s "$(command -v env)" "$out/usr/bin/env"
  '';
  buildLayeredImage =
    {
      name,
      tag,
      contents,
      config,
      fakeRootCommands ? "",
    }:
    drv "${name}.tar.gz"
      {
        inherit contents;
        exportReferencesGraph = lib.concatLists (
          lib.imap1 (i: path: [
            "closure-${toString i}"
            path
          ]) contents
        );
        config = builtins.toJSON { inherit config; };
        manifest = builtins.toJSON [
          {
            Config = "config.json";
            RepoTags = [ "${name}:${tag}" ];
            Layers = [ "layer.tar" ];
          }
        ];
        passAsFile = [
          "config"
          "manifest"
        ];
      }
      ''
        mkdir root image
        for path in $contents; do
          cp -rs --no-preserve=mode "$path/." root/
        done
        cp "$configPath" image/config.json
        cp "$manifestPath" image/manifest.json
        # Without root, what belongs to another user belongs to this one.
        [ "$(id -u)" = 0 ] || chown() { :; }
        (
          cd root
          ${fakeRootCommands}
        )
        tar -cf image/layer.tar -C root .
        # A graph has a path, its deriver, a number, and as many paths, each in a line.
        cat closure-* | grep "^$NIX_STORE/[^.]*-" | grep -v '\.drv$' | sort -u |
          tar -rPf image/layer.tar -T -
        tar -c -C image . | gzip -1 > "$out"
      '';
}
