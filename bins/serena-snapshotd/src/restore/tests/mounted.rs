//! A home that is a mount point; needs root, since it mounts one, in a namespace of its own.

use std::process::Command;

use nix::unistd::geteuid;

use super::*;

const HOME_OF_TEST: &str = "SERENA_SNAPSHOTD_TEST_MOUNTED_HOME";

#[test]
fn a_home_that_is_a_mount_point_is_filled_anew_and_stays_one() {
    if !geteuid().is_root() {
        eprintln!("skipped: a home that is a mount point because mounting needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for options in ["mount -t tmpfs -o size=16m none \"$0\"", "mount --bind \"$0.other\" \"$0\""] {
        let home = directory.path().join("home");
        let _ = fs::create_dir(&home);
        let _ = fs::create_dir(directory.path().join("home.other"));
        let script = format!("{options} && exec \"$1\" --exact --ignored restore::tests::mounted::inner");
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .arg(&home)
            .arg(std::env::current_exe().unwrap())
            .env(HOME_OF_TEST, &home)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{options}: {text}");
    }
}

#[test]
#[ignore = "runs within the test above"]
fn inner() {
    let home = PathBuf::from(std::env::var_os(HOME_OF_TEST).unwrap());
    let device = fs::metadata(&home).unwrap().ino();
    let ground = Ground::new();
    let packed = ground.put(pack(&[("home/d/a", b"new")]), layout::pack);
    let closed = Entry { mode: 0o500, ..directory("home/d") };
    let manifest = manifest(vec![directory("home"), closed, file("home/d/a", b"new", 0)], vec![packed]);
    let targets = [Target { name: HOME.to_owned(), path: home.clone(), ours: None }];
    for round in ["first", "second"] {
        fs::write(home.join("mine"), round).unwrap();
        let kept = ground.restore_to(&manifest, &targets).unwrap().kept;
        assert_eq!(kept, [home.join(journal::INSIDE).join("before")]);
        assert_eq!(fs::read_to_string(kept[0].join("mine")).unwrap(), round);
        let names: Vec<_> = tree(&home).into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["", "d", "d/a"]);
        assert_eq!(fs::metadata(home.join("d")).unwrap().mode() & 0o7777, 0o500);
    }
    assert_eq!(fs::metadata(&home).unwrap().ino(), device);
    // A volume within the home is neither moved nor ever thrown away.
    let volume = home.join("volume");
    fs::create_dir(&volume).unwrap();
    let mount =
        |args: &[&str]| assert!(Command::new("mount").args(args).arg(&volume).status().unwrap().success());
    mount(&["-t", "tmpfs", "none"]);
    fs::write(volume.join("cache"), "large").unwrap();
    for _ in 0..2 {
        ground.restore_to(&manifest, &targets).unwrap();
        assert_eq!(fs::read_to_string(volume.join("cache")).unwrap(), "large");
        assert_eq!(fs::read_to_string(home.join("d/a")).unwrap(), "new");
    }
    assert!(Command::new("umount").arg(&volume).status().unwrap().success());
    // Too little room for the new one: the old one stays.
    let large: Vec<u8> = (0..20_000_000_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
    let packed = ground.put(pack(&[("home/a", &large)]), layout::pack);
    let large = super::manifest(vec![directory("home"), file("home/a", &large, 0)], vec![packed]);
    let before = tree(&home);
    if nix::sys::statvfs::statvfs(&home).unwrap().blocks() < 10_000 {
        let error = ground.restore_to(&large, &targets).unwrap_err().to_string();
        assert_eq!(error, format!("{}: No space left on device (os error 28)", home.join("a").display()));
        assert_eq!(tree(&home), before);
        assert!(!home.join(journal::INSIDE).join("new").exists());
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&home).status().unwrap().success());
        let error = ground.restore_to(&manifest, &targets).unwrap_err().to_string();
        let staging = home.join(journal::INSIDE);
        assert_eq!(error, format!("{}: Read-only file system (os error 30)", staging.display()));
    }
}
