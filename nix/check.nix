# A suite as a check: it runs in a build's sandbox with all that it needs as inputs.
#
#   scenarioCheck pkgs {
#     scenario = "cluster_vlans";    # a suite of scenarios/tests, or of tests of your own
#     backend = "debian";            # a word for the name of the check
#     image = "${./images}/server.wic";  # the disk; of the folder, so that the TOML beside it comes along
#     filter = "forms";              # only tests whose names have this in them
#     tcg = true;                    # emulate; without it the builder must have KVM
#   }
#
# The artefacts and JUnit are in $out. Where a test fails the build fails, and Nix keeps them only with --keep-failed.
{ pkgs, rackless }:
{
  scenario,
  backend,
  image,
  filter ? "",
  tcg ? false,
  tests ? rackless.tests,
}:
pkgs.runCommand "rackless-${scenario}-${backend}"
  (
    import ./qemu.nix { inherit pkgs; }
    // {
      nativeBuildInputs = [
        pkgs.qemu
        pkgs.e2fsprogs
        pkgs.util-linux
      ];
      # A builder without KVM does not take a check that has not said that it can do without.
      requiredSystemFeatures = if tcg then [ ] else [ "kvm" ];
      RACKLESS_ACCEL = if tcg then "tcg" else "kvm";
      RACKLESS_AGENT = "${rackless.agent}/bin/rackless-agent";
      RACKLESS_IMAGE_SERVER = "${image}";
    }
  )
  ''
    export HOME=$PWD/home XDG_CACHE_HOME=$PWD/cache XDG_RUNTIME_DIR=$PWD/run
    mkdir -p -m 700 "$HOME" "$XDG_CACHE_HOME" "$XDG_RUNTIME_DIR" "$out"
    ${tests}/bin/${scenario} --artifacts "$out" --junit "$out/junit.xml" ${filter}
  ''
