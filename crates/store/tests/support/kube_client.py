"""Uses an API server as the Python client of Kubernetes does; fails where it is not what it expects.

    kube_client.py KUBECONFIG
"""

import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "default"


def refused(status, call, *arguments, **options):
    """A call has to be refused with this status."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == status, (status, error)
        return error
    raise AssertionError(f"not refused with {status}: {call.__name__}{arguments}")


def config_maps(api):
    """Creating, reading, writing over a version, patching, selecting, removing."""
    made = api.create_namespaced_config_map(
        NAMESPACE,
        client.V1ConfigMap(
            metadata=client.V1ObjectMeta(name="a", labels={"of": "python"}, annotations={"n": "1"}),
            data={"x": "1"},
        ),
    )
    assert made.metadata.uid and made.metadata.creation_timestamp
    refused(409, api.create_namespaced_config_map, NAMESPACE, made_again("a"))
    refused(404, api.create_namespaced_config_map, "nowhere", made_again("b"))
    refused(422, api.create_namespaced_config_map, NAMESPACE, made_again("A_b"))
    found = api.read_namespaced_config_map("a", NAMESPACE)
    found.data["x"] = "2"
    written = api.replace_namespaced_config_map("a", NAMESPACE, found)
    assert written.metadata.resource_version != found.metadata.resource_version
    found.data["x"] = "3"
    error = refused(409, api.replace_namespaced_config_map, "a", NAMESPACE, found)
    assert "the object has been modified" in error.body
    same = api.replace_namespaced_config_map("a", NAMESPACE, written)
    assert same.metadata.resource_version == written.metadata.resource_version, "nothing changed"
    patch = {"metadata": {"annotations": {"n": None, "m": "2"}}}
    patched = api.patch_namespaced_config_map("a", NAMESPACE, patch)
    assert patched.metadata.annotations == {"m": "2"}, patched.metadata.annotations
    stale = {"metadata": {"resourceVersion": "1", "annotations": {"n": "3"}}}
    refused(409, api.patch_namespaced_config_map, "a", NAMESPACE, stale)
    for selector, count in [("of=python", 1), ("of!=python", 0), ("of", 1), ("other", 0)]:
        listed = api.list_namespaced_config_map(NAMESPACE, label_selector=selector)
        assert len(listed.items) == count, selector
    by_name = api.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=a")
    assert [item.metadata.name for item in by_name.items] == ["a"]
    large = {"metadata": {"annotations": {"n": "x" * 300_000}}}
    refused(422, api.patch_namespaced_config_map, "a", NAMESPACE, large)
    refused(404, api.read_namespaced_config_map, "b", NAMESPACE)


def made_again(name):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name))


def watches(api):
    """From the present state, from a version, with an end, and from one that is gone."""
    version = api.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    api.patch_namespaced_config_map("a", NAMESPACE, {"data": {"y": "1"}})

    def change():
        api.patch_namespaced_config_map("a", NAMESPACE, {"data": {"y": "2"}})
        api.patch_namespaced_config_map("a", NAMESPACE, {"metadata": {"labels": {"of": None}}})

    changes = threading.Timer(0.5, change)
    changes.start()
    seen = []
    stream = watch.Watch().stream(
        api.list_namespaced_config_map,
        NAMESPACE,
        label_selector="of=python",
        resource_version=version,
        timeout_seconds=3,
    )
    for event in stream:
        seen.append((event["type"], (event["object"].data or {}).get("y")))
    changes.join()
    # What a selector no longer selects is gone for it.
    assert seen == [("MODIFIED", "1"), ("MODIFIED", "2"), ("DELETED", "2")], seen
    first = []
    present = watch.Watch()
    for event in present.stream(api.list_namespaced_config_map, NAMESPACE, timeout_seconds=1):
        first.append((event["type"], event["object"].metadata.name))
    assert ("ADDED", "a") in first, first
    # Raw, because the client goes on by itself when it is told that a version is gone.
    lines = api.list_namespaced_config_map(
        NAMESPACE, watch=True, resource_version="1", timeout_seconds=2, _preload_content=False
    ).data.decode()
    assert '"ERROR"' in lines and '"code":410' in lines.replace(" ", ""), lines
    marked = api.list_namespaced_config_map(
        NAMESPACE,
        watch=True,
        resource_version=version,
        allow_watch_bookmarks=True,
        timeout_seconds=1,
        _preload_content=False,
    ).data.decode()
    assert '"BOOKMARK"' in marked, marked


def leases():
    """Only written over the version they have."""
    api = client.CoordinationV1Api()
    lease = client.V1Lease(
        metadata=client.V1ObjectMeta(name="l"),
        spec=client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15),
    )
    made = api.create_namespaced_lease(NAMESPACE, lease)
    made.spec.holder_identity = "b"
    assert api.replace_namespaced_lease("l", NAMESPACE, made).spec.holder_identity == "b"
    refused(409, api.replace_namespaced_lease, "l", NAMESPACE, made)
    refused(422, api.replace_namespaced_lease, "l", NAMESPACE, lease)


def pods(api):
    """Annotations of pods, and their end."""
    container = client.V1Container(name="c", image="none")
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(name="p", labels={"component": "stolon-keeper"}),
        spec=client.V1PodSpec(containers=[container]),
    )
    api.create_namespaced_pod(NAMESPACE, pod)
    patched = api.patch_namespaced_pod("p", NAMESPACE, {"metadata": {"annotations": {"s": "{}"}}})
    assert patched.metadata.annotations == {"s": "{}"}
    living = "status.phase!=Failed,status.phase!=Succeeded"
    assert len(api.list_namespaced_pod(NAMESPACE, field_selector=living).items) == 1
    api.delete_namespaced_pod("p", NAMESPACE, grace_period_seconds=0)
    refused(404, api.read_namespaced_pod, "p", NAMESPACE)


def main():
    config.load_kube_config(sys.argv[1])
    api = client.CoreV1Api()
    assert client.VersionApi().get_code().major == "1"
    config_maps(api)
    watches(api)
    leases()
    pods(api)
    version = api.read_namespaced_config_map("a", NAMESPACE).metadata.resource_version
    other = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    refused(409, api.delete_namespaced_config_map, "a", NAMESPACE, body=other)
    assert api.read_namespaced_config_map("a", NAMESPACE).metadata.resource_version == version
    api.delete_namespaced_config_map("a", NAMESPACE)
    refused(404, api.delete_namespaced_config_map, "a", NAMESPACE)


if __name__ == "__main__":
    main()
