//! The manifests, put together as kustomize does it, against the schemas of Kubernetes' interfaces; and what they promise, which no
//! schema knows. Custom resources have no schema here: their fields are held against those that their pages describe.

use super::super::{needs, tree};
use super::{list, place, told, yaml};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program that this was built with.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom");

/// What somebody applies: each a folder with a `kustomization.yaml`.
const APPLIED: [&str; 4] =
    ["base", "overlays/cert-manager", "overlays/csi-driver-spiffe", "overlays/prometheus-operator"];

/// The fields of custom resources, as their projects describe them.
const CUSTOM: [(&str, &[&str]); 2] = [
    (
        "cert-manager.io/v1 Certificate",
        &["secretName", "duration", "renewBefore", "privateKey", "usages", "uris", "dnsNames", "issuerRef"],
    ),
    ("monitoring.coreos.com/v1 PodMonitor", &["selector", "podMetricsEndpoints"]),
];

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// All objects of a folder, patched. `None` where YAML can't be read.
fn objects(folder: &Path) -> Option<Vec<Value>> {
    let kustomization = yaml(&folder.join("kustomization.yaml"))?.remove(0);
    let mut found = Vec::new();
    let mut named = BTreeSet::from(["kustomization.yaml".to_owned()]);
    for name in list(&kustomization["resources"]).iter().map(|name| name.as_str().unwrap()) {
        named.insert(name.to_owned());
        let path = folder.join(name);
        found.extend(if path.is_dir() { objects(&path.canonicalize().unwrap())? } else { yaml(&path)? });
    }
    for patch in list(&kustomization["patches"]) {
        named.insert(text(patch, "/path").to_owned());
        let (kind, name) = (text(patch, "/target/kind"), text(patch, "/target/name"));
        let mut targets = found.iter_mut().filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        let target = targets.next().unwrap_or_else(|| panic!("{}: no {kind} {name}", folder.display()));
        for step in list(&yaml(&folder.join(text(patch, "/path")))?[0]) {
            apply(target, step);
        }
    }
    // What nobody names is not applied.
    for entry in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let is_named = entry.file_name().is_some_and(|name| named.contains(&*name.to_string_lossy()));
        assert!(is_named || entry.extension().is_none_or(|end| end != "yaml"), "{} is named nowhere", entry.display());
    }
    Some(found)
}

/// A step of a JSON patch (RFC 6902).
fn apply(target: &mut Value, step: &Value) {
    let (place, name) = text(step, "/path").rsplit_once('/').expect("a path begins with a slash");
    let parent = target.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}"));
    match (text(step, "/op"), parent) {
        ("add", Value::Array(items)) if name == "-" => items.push(step["value"].clone()),
        ("replace", parent) if parent.get(name).is_some() => parent[name] = step["value"].clone(),
        (operation, _) => panic!("{operation} of {place}/{name} can't be done"),
    }
}

/// What the schemas say. `None` where there are none.
fn validate(objects: &[Value]) -> Option<(bool, String)> {
    let python = tree::tool("python3");
    if !needs::at_hand(&[python.to_str().expect("the checkout's path is text")], None) {
        return None;
    }
    let mut command = Command::new(python);
    command.arg(tree::root().join("tests/supply/deployment/validate_kubernetes.py"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(Value::from(objects).to_string().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(!said.contains("Traceback"), "{said}");
    Some((done.status.success(), said))
}

fn kind(object: &Value) -> String {
    format!("{} {}", text(object, "/apiVersion"), text(object, "/kind"))
}

/// Everything that is applied, with the pod for the first time.
fn all() -> Option<Vec<(&'static str, Vec<Value>)>> {
    let mut all = Vec::new();
    for name in APPLIED {
        all.push((name, objects(&place("kubernetes").join(name))?));
    }
    all.push(("first", yaml(&place("kubernetes/first/pod.yaml"))?));
    Some(all)
}

/// The specifications of pods in an object.
fn pod(object: &Value) -> Option<&Value> {
    match text(object, "/kind") {
        "Pod" => Some(&object["spec"]),
        "StatefulSet" | "Deployment" | "DaemonSet" | "Job" => Some(&object["spec"]["template"]["spec"]),
        _ => None,
    }
}

/// What of a pod is not as it was promised.
fn faults(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut want = |holds: bool, what: &str| found.extend((!holds).then(|| what.to_owned()));
    let own = &pod["securityContext"];
    want(own["runAsNonRoot"] == true && own["runAsUser"].as_u64() >= Some(1000), "it may be root");
    want(own["runAsGroup"].as_u64() >= Some(1000), "its group may be root's");
    want(text(own, "/seccompProfile/type") == "RuntimeDefault", "no filter of system calls");
    want(pod["automountServiceAccountToken"] == false, "it gets a token for the API server");
    want(pod["enableServiceLinks"] == false, "services put CLOAKROOM_… into its environment");
    for word in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        want(pod[word].is_null(), word);
    }
    want(list(&pod["volumes"]).iter().all(|volume| volume["hostPath"].is_null()), "a path of the node is mounted");
    for container in list(&pod["initContainers"]).iter().chain(list(&pod["containers"])) {
        let least = &container["securityContext"];
        want(least["readOnlyRootFilesystem"] == true, "its root file system can be written to");
        want(least["allowPrivilegeEscalation"] == false && least["privileged"] == false, "it may gain rights");
        want(least["capabilities"] == serde_json::json!({ "drop": ["ALL"] }), "it has capabilities");
        want(!container["resources"]["limits"]["memory"].is_null(), "its memory has no limit");
        let tag = text(container, "/image").rsplit_once(':').map_or("", |(_, tag)| tag);
        want(tag == env!("CARGO_PKG_VERSION"), "its image is not of this version");
    }
    found
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    let Some(all) = all() else { return };
    let mut known: Vec<Value> = Vec::new();
    for (name, objects) in &all {
        for one in objects {
            if let Some((_, fields)) = CUSTOM.iter().find(|(name, _)| *name == kind(one)) {
                for field in one["spec"].as_object().unwrap().keys() {
                    assert!(fields.contains(&field.as_str()), "{name}: {} has no {field}", kind(one));
                }
            } else if !known.contains(one) {
                known.push(one.clone());
            }
            let is_inside = one["kind"] == "Namespace" || text(one, "/metadata/namespace") == "cloakroom";
            assert!(is_inside, "{name}: {}", kind(one));
        }
    }
    assert!(known.len() > 10);
    let Some((is_valid, said)) = validate(&known) else { return };
    assert!(is_valid, "{said}");
    // A misspelt field, and a value of another kind, are found.
    let set = all[0].1.iter().find(|one| one["kind"] == "StatefulSet").unwrap();
    let mut wrong = vec![set.clone(), set.clone(), set.clone()];
    wrong[0].pointer_mut("/spec/template/spec/containers/0").unwrap()["readinesProbe"] = serde_json::json!({});
    wrong[1]["spec"]["replicas"] = "one".into();
    wrong[2]["apiVersion"] = "apps/v0".into();
    let (is_valid, said) = validate(&wrong).unwrap();
    assert!(!is_valid && ["readinesProbe", "'one'", "apps/v0"].iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn no_pod_has_a_right_that_it_does_not_need_o_08() {
    let Some(all) = all() else { return };
    let mut seen = 0;
    for (name, objects) in &all {
        for pod in objects.iter().filter_map(pod) {
            assert_eq!(faults(pod), [""; 0], "{name}");
            seen += 1;
        }
        assert!(
            objects.iter().all(|one| !["Secret", "Role", "ClusterRole", "RoleBinding"].contains(&text(one, "/kind")))
        );
    }
    assert_eq!(seen, APPLIED.len() + 1);
    let pod = pod(all[0].1.iter().find(|one| one["kind"] == "StatefulSet").unwrap()).unwrap();
    for pointer in [
        "/securityContext/runAsNonRoot",
        "/securityContext/seccompProfile",
        "/enableServiceLinks",
        "/automountServiceAccountToken",
        "/containers/0/securityContext/readOnlyRootFilesystem",
        "/containers/0/securityContext/capabilities",
        "/initContainers/0/securityContext/allowPrivilegeEscalation",
        "/containers/0/resources/limits/memory",
    ] {
        let mut wrong = pod.clone();
        *wrong.pointer_mut(pointer).unwrap() = Value::Null;
        assert!(!faults(&wrong).is_empty(), "{pointer} was not missed");
    }
}

#[test]
fn only_those_who_are_named_reach_the_vault_o_08() {
    let Some(all) = all() else { return };
    for (name, objects) in all.iter().filter(|(name, _)| *name != "first") {
        let policies: Vec<&Value> =
            objects.iter().filter(|one| one["kind"] == "NetworkPolicy").map(|one| &one["spec"]).collect();
        let denies = |policy: &&&Value| {
            let is_all = policy["podSelector"].as_object().is_some_and(serde_json::Map::is_empty);
            is_all && policy["policyTypes"] == serde_json::json!(["Ingress", "Egress"])
        };
        let nothing = policies.iter().find(denies).unwrap_or_else(|| panic!("{name}: nothing is kept out"));
        assert!(nothing["ingress"].is_null() && nothing["egress"].is_null(), "{name}: it lets something through");
        let mut ports = BTreeSet::new();
        for policy in policies.iter().filter(|policy| !denies(policy)) {
            assert!(policy["egress"].is_null(), "{name}: the vault calls nobody");
            for rule in list(&policy["ingress"]) {
                assert!(!list(&rule["from"]).is_empty(), "{name}: anybody may come");
                for peer in list(&rule["from"]) {
                    for word in ["namespaceSelector", "podSelector"] {
                        let labels = peer[word]["matchLabels"].as_object();
                        assert!(labels.is_some_and(|labels| !labels.is_empty()), "{name}: {word} takes all");
                    }
                }
                assert_eq!(list(&rule["ports"]).len(), 1, "{name}: one port for each kind of peer");
                ports.insert(text(&rule["ports"][0], "/port").to_owned());
            }
        }
        assert_eq!(ports, BTreeSet::from(["grpc".to_owned(), "operations".to_owned()]), "{name}");
        // The service is for callers alone, and the names of ports are those of the pod.
        let set = objects.iter().find(|one| one["kind"] == "StatefulSet").unwrap();
        let container = &pod(set).unwrap()["containers"][0];
        let opened: BTreeSet<String> =
            list(&container["ports"]).iter().map(|port| text(port, "/name").to_owned()).collect();
        assert_eq!(opened, ports, "{name}");
        for service in objects.iter().filter(|one| one["kind"] == "Service") {
            let served = list(&service["spec"]["ports"]).iter().map(|port| text(port, "/targetPort"));
            assert_eq!(served.collect::<Vec<_>>(), ["grpc"], "{name}");
            assert_eq!(text(service, "/spec/type"), "ClusterIP", "{name}");
        }
        // One writer of one log, which nobody evicts in passing.
        assert_eq!(set["spec"]["replicas"], 1, "{name}");
        assert!(objects.iter().any(|one| one["kind"] == "PodDisruptionBudget" && one["spec"]["maxUnavailable"] == 0));
        for (probe, path) in [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
            assert_eq!(text(&container[probe], "/httpGet/path"), path, "{name}: {probe}");
        }
    }
}

/// The vault reads its files where the pods put them.
#[test]
fn the_configuration_in_the_pod_is_one() {
    let base = place("kubernetes/base");
    let config = std::fs::read_to_string(base.join("cloakroom.toml")).unwrap();
    let table: toml::Table = config.parse().unwrap();
    let Some(set) = objects(&base).map(|all| all.into_iter().find(|one| one["kind"] == "StatefulSet").unwrap()) else {
        return;
    };
    let pod = pod(&set).unwrap();
    let mounts = list(&pod["containers"][0]["volumeMounts"]);
    let of = |keys: [&str; 2]| table[keys[0]][keys[1]].as_str().unwrap().to_owned();
    let copied = pod["initContainers"][0]["command"].to_string();
    for (keys, is_written) in [
        (["server", "certificate"], false),
        (["server", "private_key"], false),
        (["root_key", "path"], false),
        (["audit", "signing_key"], false),
        (["policies", "directory"], false),
        (["storage", "path"], true),
        (["audit", "checkpoints"], true),
    ] {
        let path = of(keys);
        let below = |mount: &&Value| Path::new(&path).starts_with(text(mount, "/mountPath"));
        let mount = mounts.iter().find(below).unwrap_or_else(|| panic!("{keys:?}: {path} is mounted nowhere"));
        assert_eq!(mount["readOnly"] == true, !is_written, "{path}");
        if let Some(name) = path.strip_prefix("/run/cloakroom/") {
            assert!(copied.contains(&format!("/secret/{name}\"")), "{path} is not copied");
        }
    }
    // And the program takes rules and configuration. Policies lie as Kubernetes lays them: links into a folder whose name has dots.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("policies/..data");
    std::fs::create_dir_all(&data).unwrap();
    for policy in base.join("policies").read_dir().unwrap().map(Result::unwrap) {
        std::fs::copy(policy.path(), data.join(policy.file_name())).unwrap();
        let link = folder.path().join("policies").join(policy.file_name());
        std::os::unix::fs::symlink(Path::new("..data").join(policy.file_name()), link).unwrap();
    }
    let file = folder.path().join("cloakroom.toml");
    let there = folder.path().join("policies").display().to_string();
    std::fs::write(&file, config.replace("/etc/cloakroom-policies", &there)).unwrap();
    let (is_good, said) = told(Command::new(PROGRAM).args(["policy", "check", "--config"]).arg(&file));
    assert!(is_good && said.contains("0 mistakes") && said.contains("1 policy"), "{said}");
}
