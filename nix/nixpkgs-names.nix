# The names of nixpkgs that flake.nix and nix/ use, and where each is documented. nix/stub has these and no other, so that
# `nix/evaluate.sh` fails for a name that is not here; and for one here that nothing uses.
{
  # Of `lib`: https://nixos.org/manual/nixpkgs/stable/#sec-functions-library
  lib = {
    concatMap = "lists";
    fixedWidthString = "strings";
    genAttrs = "attrsets";
    hasSuffix = "strings";
    imap1 = "lists";
    last = "lists";
    nixosSystem = "https://nixos.org/manual/nixos/stable/, flakes; added to lib by nixpkgs' flake.nix";
    optionalAttrs = "attrsets";
    optionalString = "strings";
    optionals = "lists";
    splitString = "strings";
    toHexString = "trivial";
    toInt = "strings";
  };

  # Of a package set. Packages: https://search.nixos.org/packages
  packages = {
    OVMF = "package, output fd: FV/OVMF_CODE.fd, on aarch64 FV/AAVMF_CODE.fd";
    cargo = "package";
    cargo-nextest = "package";
    clippy = "package";
    debian-archive-keyring = "package";
    e2fsprogs = "package";
    glibc = "package, output static";
    jq = "package";
    mkShell = "https://nixos.org/manual/nixpkgs/stable/#sec-pkgs-mkShell";
    mmdebstrap = "package";
    nixfmt-rfc-style = "package";
    pkgsStatic = "https://nixos.org/manual/nixpkgs/stable/#chap-cross; its rustPlatform builds for musl";
    qemu = "package";
    runCommand = "https://nixos.org/manual/nixpkgs/stable/#trivial-builder-runCommand";
    rustPlatform = "https://nixos.org/manual/nixpkgs/stable/#rust: buildRustPackage";
    rustc = "package";
    rustfmt = "package";
    ser2net = "package";
    shadow = "package";
    stdenv = "https://nixos.org/manual/nixpkgs/stable/#chap-stdenv: hostPlatform";
    util-linux = "package";
    writeShellApplication = "https://nixos.org/manual/nixpkgs/stable/#trivial-builder-writeShellApplication";
  };
}
