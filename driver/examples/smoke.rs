//! smoke
use driver::spec::*; use driver::*; use std::path::PathBuf; use std::time::Duration;
#[tokio::main] async fn main() {
    tracing_subscriber::fmt().with_env_filter("debug").init();
    let qemu = qemu::Qemu::find().await.unwrap();
    let t0=std::time::Instant::now();
    let ch = qemu::choose_accel(&qemu, Some(&PathBuf::from("/var/tmp/I/vmlinuz")), &PathBuf::from("/tmp/probes")).await.unwrap();
    println!("{ch:?} {:?}", t0.elapsed());
    let unit = br#"[Unit]
Description=agent
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
[Service]
ExecStart=/bin/sh -ec 'for s in /sys/block/*/serial; do [ -e "$$s" ] || continue; if [ "$$(cat $$s)" = rackless-agent ]; then d=$${s%%/serial}; d=/dev/$${d##*/}; fi; done; mkdir -p /run/rackless-agent; mount -o ro $$d /run/rackless-agent; exec /run/rackless-agent/rackless-agent'
StandardOutput=journal+console
"#;
    let dropin=b"[Unit]\nWants=rackless-agent.service\n";
    let fw = std::env::args().nth(1).as_deref()==Some("firmware");
    let m = |name:&str,i:u8| MachineSpec{ name:name.into(), memory_mib:512, vcpus:1,
        boot: if fw {Boot::Firmware} else {Boot::Direct{kernel:"/var/tmp/I/vmlinuz".into(),initrd:Some("/var/tmp/I/initrd.img".into()),cmdline:"root=PARTUUID=7d0f3a52-5f1b-4f83-9d6c-6f2b7a1c0002 rw console=ttyS0".into()}},
        disk:DiskSpec{image:"/var/tmp/I/proto.wic".into(),bus:DiskBus::VirtioBlk,grow_to:None},
        nics:vec![NicSpec{name:"eth1".into(),mac:format!("52:54:00:00:00:0{i}"),port:switch::PortMode::Access{vlan:switch::VlanId::new(5).unwrap()}}],
        agent:Some(AgentSpec{disk:Some("/tmp/agent.ext4".into()),channel:Channel::Virtserial}),
        credentials:vec![("systemd.extra-unit.rackless-agent.service".into(),unit.to_vec()),("systemd.unit-dropin.sysinit.target~rackless".into(),dropin.to_vec())],
        hostname:Some(name.into()),files:vec![],addresses:Default::default()};
    let spec=LabSpec{name:"smoke".into(),machines:vec![m("a",1),m("b",2)]};
    let run=process::RunDir::create(&format!("smoke{}",std::process::id())).unwrap();
    let art=PathBuf::from("/tmp/smoke"); let _=std::fs::remove_dir_all(&art); std::fs::create_dir_all(&art).unwrap();
    let lab=Lab::create(spec,LabOptions{qemu,accel:ch.accel,run,artifacts:art,supervisor:Unsupervised::until(Duration::from_secs(400))}).await.unwrap();
    let t0=std::time::Instant::now();
    lab.start().await.unwrap();
    println!("started {:?}",t0.elapsed());
    let r=lab.wait_ready().await; println!("ready {:?} {}",t0.elapsed(), r.as_ref().err().map(|e|e.to_string()).unwrap_or_default());
    if r.is_ok(){ let a=&lab["a"];
    println!("{:?}",a.succeed("hostname; uname -a; systemctl --failed; ip -br addr").await);
    let t=std::time::Instant::now(); for _ in 0..20 { a.succeed("true").await.unwrap(); } println!("20x true {:?}",t.elapsed());
    println!("{:?}",a.fail("false").await.map(|o|o.status));
    println!("{}",a.succeed("echo hi; ls /nope").await.unwrap_err());
    println!("{}",a.wait_until_succeeds("test -e /nope").within(Duration::from_secs(1)).await.unwrap_err());
    println!("reboot {:?}",a.reboot().await.map_err(|e|e.to_string())); println!("{:?}",t0.elapsed());
    println!("screenshot {:?}",a.screenshot("x").await.map_err(|e|e.to_string()));
    println!("shutdown {:?}",a.shutdown().await.map_err(|e|e.to_string()));
    }
    lab.diagnose().await; println!("teardown {:?}",lab.teardown().await.map_err(|e|e.to_string()));
}
