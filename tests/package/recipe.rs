//! What `packaging/container` says, read by a YAML parser. Every key is known here, or the test fails: nothing in the files is
//! there without having been tried.

use std::collections::BTreeSet;
use std::fs;

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::repository;

/// What a container sees of outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// A directory of the host, or a file that comes with the files.
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    /// In the words of mount(8).
    pub propagation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Host(String),
    Config,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub image: String,
    pub privileged: bool,
    pub user: Option<u32>,
    pub no_capabilities: bool,
    pub no_new_privileges: bool,
    pub mounts: Vec<Mount>,
    /// What tells that it works.
    pub probe: Vec<String>,
}

/// Both, and what they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    pub daemon: Container,
    pub workload: Container,
    pub one_network: bool,
    pub one_pid_namespace: bool,
    /// The workload starts when the daemon works.
    pub in_order: bool,
}

fn read(name: &str) -> Yaml {
    let path = repository().join("packaging/container").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let documents = YamlLoader::load_from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let [document] = &documents[..] else { panic!("{name} holds {} documents", documents.len()) };
    document.clone()
}

/// A mapping whose keys are these, or some of them.
fn only<'y>(yaml: &'y Yaml, keys: &[&str]) -> &'y Yaml {
    let there: BTreeSet<&str> =
        yaml.as_hash().into_iter().flatten().map(|(key, _)| key.as_str().expect("a word")).collect();
    let unknown: Vec<_> = there.iter().filter(|key| !keys.contains(key)).collect();
    assert!(yaml.is_badvalue() || yaml.as_hash().is_some(), "a mapping, not {yaml:?}");
    assert!(unknown.is_empty(), "nobody has tried {unknown:?}");
    yaml
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("a text, not {yaml:?}")).to_owned()
}

fn flag(yaml: &Yaml) -> bool {
    !yaml.is_badvalue() && yaml.as_bool().unwrap_or_else(|| panic!("yes or no, not {yaml:?}"))
}

fn list(yaml: &Yaml) -> Vec<Yaml> {
    if yaml.is_badvalue() {
        Vec::new()
    } else {
        yaml.as_vec().unwrap_or_else(|| panic!("a list, not {yaml:?}")).clone()
    }
}

fn texts(yaml: &Yaml) -> Vec<String> {
    list(yaml).iter().map(text).collect()
}

/// `pod.yaml`, for Kubernetes.
pub fn pod() -> Sidecar {
    let pod = read("pod.yaml");
    only(&pod, &["apiVersion", "kind", "metadata", "spec"]);
    assert_eq!((text(&pod["apiVersion"]), text(&pod["kind"])), ("v1".into(), "Pod".into()));
    // No hostNetwork: a pod has a network namespace, which its containers share.
    let spec = only(&pod["spec"], &["shareProcessNamespace", "volumes", "initContainers", "containers"]);
    let volume = |name: &str| {
        let volumes = list(&spec["volumes"]);
        let found: Vec<_> = volumes.iter().filter(|volume| text(&volume["name"]) == name).collect();
        let [volume] = found[..] else { panic!("{} volumes are called {name}", found.len()) };
        only(volume, &["name", "hostPath", "configMap"]);
        match volume["hostPath"].is_badvalue() {
            true => {
                only(&volume["configMap"], &["name"]);
                Source::Config
            }
            false => {
                let host = only(&volume["hostPath"], &["path", "type"]);
                assert_eq!(text(&host["type"]), "DirectoryOrCreate");
                Source::Host(text(&host["path"]))
            }
        }
    };
    let container = |yaml: &Yaml, more: &[&str]| {
        only(yaml, &[&["name", "image", "securityContext", "volumeMounts"], more].concat());
        let keys = ["privileged", "runAsUser", "runAsNonRoot", "allowPrivilegeEscalation", "capabilities"];
        let security = only(&yaml["securityContext"], &keys);
        let user = security["runAsUser"].as_i64().map(|user| u32::try_from(user).expect("a user"));
        assert_eq!(flag(&security["runAsNonRoot"]), user.is_some_and(|user| user != 0));
        let mounts = list(&yaml["volumeMounts"]).into_iter().map(|mount| {
            only(&mount, &["name", "mountPath", "mountPropagation", "readOnly", "subPath"]);
            let source = volume(&text(&mount["name"]));
            Mount {
                target: text(&mount["mountPath"]),
                // A config map is never written to.
                read_only: flag(&mount["readOnly"]) || source == Source::Config,
                propagation: match mount["mountPropagation"].as_str() {
                    Some("Bidirectional") => "rshared",
                    Some("HostToContainer") => "rslave",
                    None => "private",
                    other => panic!("no propagation: {other:?}"),
                },
                source,
            }
        });
        Container {
            image: text(&yaml["image"]),
            privileged: flag(&security["privileged"]),
            user,
            no_capabilities: texts(&only(&security["capabilities"], &["drop"])["drop"]) == ["ALL"],
            no_new_privileges: security["allowPrivilegeEscalation"].as_bool() == Some(false),
            mounts: mounts.collect(),
            probe: texts(&only(&only(&yaml["startupProbe"], &["exec"])["exec"], &["command"])["command"]),
        }
    };
    let ([daemon], [workload]) = (&list(&spec["initContainers"])[..], &list(&spec["containers"])[..]) else {
        panic!("one of each kind")
    };
    // An init container that goes on is a sidecar; with a probe, what follows waits until it works.
    let in_order = text(&daemon["restartPolicy"]) == "Always" && !daemon["startupProbe"].is_badvalue();
    Sidecar {
        daemon: container(daemon, &["restartPolicy", "startupProbe"]),
        workload: container(workload, &[]),
        one_network: true,
        one_pid_namespace: flag(&spec["shareProcessNamespace"]),
        in_order,
    }
}

/// `compose.yaml`, for Docker and Podman.
pub fn compose() -> Sidecar {
    let compose = read("compose.yaml");
    let services = only(&only(&compose, &["services"])["services"], &["nlmmap", "collector"]);
    let keys =
        ["image", "privileged", "volumes", "healthcheck", "network_mode", "pid", "user", "cap_drop", "security_opt"];
    let container = |yaml: &Yaml| {
        only(yaml, &[&keys[..], &["depends_on"]].concat());
        let mounts = list(&yaml["volumes"]).into_iter().map(|mount| match mount.as_str() {
            Some(short) => {
                let parts: Vec<_> = short.split(':').collect();
                let [from, to, "ro"] = parts[..] else { panic!("{short}: a file of the project's, read-only") };
                assert!(from.starts_with("./"), "{from}");
                Mount { source: Source::Config, target: to.into(), read_only: true, propagation: "private" }
            }
            None => {
                only(&mount, &["type", "source", "target", "read_only", "bind"]);
                assert_eq!(text(&mount["type"]), "bind");
                let bind = only(&mount["bind"], &["propagation", "create_host_path"]);
                let propagation =
                    ["rshared", "rslave"].into_iter().find(|word| bind["propagation"].as_str() == Some(word));
                Mount {
                    source: Source::Host(text(&mount["source"])),
                    target: text(&mount["target"]),
                    read_only: flag(&mount["read_only"]),
                    propagation: propagation.expect("one of the two"),
                }
            }
        });
        let health = only(&yaml["healthcheck"], &["test", "interval"]);
        let probe = texts(&health["test"]);
        let user =
            yaml["user"].as_str().map(|user| user.split_once(':').expect("user and group").0.parse().expect("a user"));
        Container {
            image: text(&yaml["image"]),
            privileged: flag(&yaml["privileged"]),
            user,
            no_capabilities: texts(&yaml["cap_drop"]) == ["ALL"],
            no_new_privileges: texts(&yaml["security_opt"]) == ["no-new-privileges:true"],
            mounts: mounts.collect(),
            probe: probe.strip_prefix(&["CMD".to_owned()]).unwrap_or_default().to_vec(),
        }
    };
    let (daemon, workload) = (&services["nlmmap"], &services["collector"]);
    let shared = |key: &str| workload[key].as_str() == Some("service:nlmmap");
    let needs = only(&only(&workload["depends_on"], &["nlmmap"])["nlmmap"], &["condition"]);
    Sidecar {
        one_network: shared("network_mode"),
        one_pid_namespace: shared("pid"),
        in_order: needs["condition"].as_str() == Some("service_healthy"),
        daemon: container(daemon),
        workload: container(workload),
    }
}
