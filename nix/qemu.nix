# Where QEMU and its firmware are in the store: neither the driver nor set-up looks there by itself.
{ pkgs }:
let
  x86 = pkgs.stdenv.hostPlatform.isx86_64;
  firmware = name: "${pkgs.OVMF.fd}/FV/${if x86 then "OVMF" else "AAVMF"}_${name}.fd";
in
{
  RACKLESS_QEMU = "${pkgs.qemu}/bin/qemu-system-${if x86 then "x86_64" else "aarch64"}";
  RACKLESS_FIRMWARE_CODE = firmware "CODE";
  RACKLESS_FIRMWARE_VARS = firmware "VARS";
}
