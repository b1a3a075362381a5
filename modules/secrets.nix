# Files with secrets: systemd hands them to one unit (LoadCredential=), and none of them is ever in the Nix store.
{ lib }:
{
  # Assertions for `files`, by the names of the options that hold them; null is no file.
  assertions =
    files:
    lib.mapAttrsToList (option: file: {
      assertion = file == null || !(builtins.isPath file || lib.hasPrefix builtins.storeDir (toString file));
      message = "${option}: `${toString file}` would be in the Nix store, where every user can read it; name a file outside, as a string.";
    }) files;

  # LoadCredential= for `files`, by the names of the credentials.
  load = files: lib.mapAttrsToList (name: file: "${name}:${toString file}") (lib.filterAttrs (_: f: f != null) files);
}
