# What `cargo xtask setup` and `cargo xtask test` would install, for hosts that are neither Debian nor Ubuntu. Debian's
# keyring is looked for in /usr/share/keyrings.
{ pkgs }:
pkgs.mkShell (
  import ./qemu.nix { inherit pkgs; }
  // {
    packages = [
      pkgs.cargo
      pkgs.cargo-nextest
      pkgs.clippy
      pkgs.debian-archive-keyring
      pkgs.e2fsprogs
      pkgs.glibc.static
      pkgs.mmdebstrap
      pkgs.qemu
      pkgs.rustc
      pkgs.rustfmt
      pkgs.ser2net
      pkgs.shadow
      pkgs.util-linux
    ];
  }
)
