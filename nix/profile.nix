# One machine of a network profile as a NixOS module: names, bonds, VLANs, addresses, and k3s on the cluster network.
{
  lib,
  profile,
  name,
}:
let
  machine = profile.machines.${name};
  networks = profile.networks;
  bonds = profile.bonds or { };
  vlanOf = network: (machine.vlans or { }).${network} or networks.${network}.vlan or null;
  interfaceOf =
    network:
    let
      carrier = networks.${network}.interface;
      vlan = vlanOf network;
    in
    if vlan == null then carrier else "${carrier}.${toString vlan}";
  prefix = network: lib.last (lib.splitString "/" networks.${network}.subnet);
  cluster = machine.addresses.cluster;
  api = profile.machines.${profile.kubernetes.api_server}.addresses.cluster;
  isServer = machine.role == "server";
  isFirst = name == profile.kubernetes.api_server;

  bondDevice = bond: {
    netdevConfig = {
      Name = bond;
      Kind = "bond";
    };
    bondConfig = {
      Mode = bonds.${bond}.mode;
      MIIMonitorSec = "${toString (bonds.${bond}.miimon_ms or 100)}ms";
    }
    // lib.optionalAttrs (bonds.${bond}.mode == "802.3ad") {
      LACPTransmitRate = bonds.${bond}.lacp_rate or "fast";
    };
  };
  vlanDevice = network: {
    netdevConfig = {
      Name = interfaceOf network;
      Kind = "vlan";
    };
    vlanConfig.Id = vlanOf network;
  };
  tagged = builtins.filter (network: vlanOf network != null) (builtins.attrNames networks);
  carriers = profile.nics ++ builtins.attrNames bonds;
  bondOf = nic: builtins.filter (bond: builtins.elem nic bonds.${bond}.members) (builtins.attrNames bonds);

  # As the profile derives it: the last two bytes of the cluster address, and the NIC's place from 1.
  macOf =
    place: nic:
    let
      hex = number: lib.fixedWidthString 2 "0" (lib.toHexString number);
      bytes = lib.concatMap (byte: [ (lib.toInt byte) ]) (lib.splitString "." cluster);
      tail = builtins.genList (index: hex (builtins.elemAt bytes (index + 2))) 2;
    in
    (machine.macs or { }).${nic} or "52:54:00:${builtins.concatStringsSep ":" (tail ++ [ (hex place) ])}";
  linkOf = place: nic: {
    name = "05-${nic}";
    value = {
      matchConfig.PermanentMACAddress = macOf place nic;
      linkConfig.Name = nic;
    };
  };

  # A NIC or bond: in a bond, under VLANs, with an address, or all of the last two.
  carrier = interface: {
    matchConfig.Name = interface;
    networkConfig = {
      LinkLocalAddressing = "no";
    }
    // lib.optionalAttrs (bondOf interface != [ ]) {
      Bond = builtins.head (bondOf interface);
      PrimarySlave = bonds.${builtins.head (bondOf interface)}.primary or null == interface;
    };
    vlan = map interfaceOf (builtins.filter (network: networks.${network}.interface == interface) tagged);
  };
  addressed =
    network:
    {
      matchConfig.Name = interfaceOf network;
      networkConfig.LinkLocalAddressing = "no";
    }
    // (
      if networks.${network} ? dhcp then
        { DHCP = "ipv4"; }
      else
        { address = [ "${machine.addresses.${network}}/${prefix network}" ]; }
    )
    // lib.optionalAttrs (networks.${network} ? gateway) { gateway = [ networks.${network}.gateway ]; };
  named = list: value: prefix: builtins.listToAttrs (
    map (item: {
      name = "${prefix}-${item}";
      value = value item;
    }) list
  );
  untagged = builtins.filter (network: vlanOf network == null) (builtins.attrNames networks);
  # One file for an interface: what carries an untagged network has its address in the same.
  bare = builtins.filter (interface: !(builtins.any (n: networks.${n}.interface == interface) untagged)) carriers;
in
{
  networking.hostName = name;
  networking.useNetworkd = true;
  networking.hosts.${api} = [ profile.kubernetes.api_server ];
  systemd.network.links = builtins.listToAttrs (lib.imap1 linkOf profile.nics);
  systemd.network.netdevs =
    named (builtins.attrNames bonds) bondDevice "05-bond" // named tagged vlanDevice "06-vlan";
  systemd.network.networks =
    named bare carrier "10-carrier"
    // named untagged (network: carrier networks.${network}.interface // addressed network) "10-address"
    // named tagged addressed "20-address";

  services.k3s = {
    enable = true;
    role = machine.role;
    tokenFile = "/etc/rackless/k3s-token";
    clusterInit = isServer && isFirst;
    serverAddr = lib.optionalString (!isFirst) "https://${api}:${toString (profile.kubernetes.api_port or 6443)}";
    extraFlags = [
      "--node-ip=${cluster}"
      "--flannel-iface=${interfaceOf "cluster"}"
    ]
    ++ lib.optionals isServer [
      "--advertise-address=${cluster}"
      "--tls-san=${api}"
      "--cluster-cidr=${profile.kubernetes.pod_cidr}"
      "--service-cidr=${profile.kubernetes.service_cidr}"
    ];
  };
}
