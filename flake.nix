# The development shell: what `cargo xtask setup` would install, for hosts that are neither Debian nor Ubuntu.
# Evaluated against a stand-in for nixpkgs only, none was at hand where this was written: its shape is right, its
# package names are to the best of our knowledge. Debian's keyring is looked for in /usr/share/keyrings.
{
  description = "Rackless: whole racks of machines for a test";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
    in
    {
      devShells.${system}.default = pkgs.mkShell {
        packages = with pkgs; [
          cargo
          cargo-nextest
          clippy
          debian-archive-keyring
          e2fsprogs
          glibc.static
          mmdebstrap
          qemu
          rustc
          rustfmt
          shadow
          util-linux
        ];

        # Neither the driver nor set-up looks into the Nix store by itself.
        RACKLESS_QEMU = "${pkgs.qemu}/bin/qemu-system-x86_64";
        RACKLESS_FIRMWARE_CODE = "${pkgs.OVMF.fd}/FV/OVMF_CODE.fd";
        RACKLESS_FIRMWARE_VARS = "${pkgs.OVMF.fd}/FV/OVMF_VARS.fd";
      };
    };
}
