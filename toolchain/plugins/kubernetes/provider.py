"""gRPC ResourceProvider of the `kubernetes` stand-in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2

from toolchain.plugins.difference import text
from toolchain.plugins.kubernetes import apply, checks, objects
from toolchain.plugins.kubernetes.client import ApiError, Cluster, NoSuchTypeError, Settings, UnreachableError
from toolchain.plugins.kubernetes.objects import (
    INITIAL_VERSION,
    INPUTS,
    Type,
    annotation,
    manifest,
    qualified,
    split_id,
)
from toolchain.plugins.kubernetes.waits import loop
from toolchain.plugins.kubernetes.waits.verdict import READY
from toolchain.plugins.server import InitError, PluginError, Provider
from toolchain.plugins.wire import decode, encode, has_unknown, plain, redact, without_nulls

OPTIONS = (
    "upsertExistingObjects",
    "enablePatchForce",
    "enableSecretMutable",
    "enableConfigMapMutable",
    "deleteUnreachable",
)
ENVIRONMENT = {
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
}
CRD = "CustomResourceDefinition"
_T = TypeVar("_T")


class KubernetesProvider(Provider):
    """Objects of one cluster. Options are the official provider's, by their names."""

    def __init__(self, engine: str | None = None):
        super().__init__("kubernetes", engine)
        self.cluster = Cluster(Settings())
        self.options = dict.fromkeys(OPTIONS, False)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        given = {key: plain(value) for key, value in decode(request.args).items()}
        given |= {
            key.removeprefix("kubernetes:config:"): value
            for key, value in request.variables.items()
            if key not in given
        }
        kubeconfig = given.get("kubeconfig") or ""
        self.cluster = Cluster(
            Settings(
                kubeconfig if isinstance(kubeconfig, str) else json.dumps(kubeconfig),
                *(str(given.get(key) or "") for key in ("context", "cluster", "namespace")),
            )
        )
        for name in OPTIONS:
            self.options[name] = str(given.get(name, os.environ.get(ENVIRONMENT[name], ""))).lower() == "true"
        if given.get("renderYamlToDirectory"):
            raise PluginError(
                "renderYamlToDirectory: the kubernetes stand-in cannot render YAML; use the official plugin."
            )
        return super().Configure(request, context)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        news, olds = without_nulls(decode(request.news)), plain(decode(request.olds))
        news.pop("__defaults", None)
        kind = objects.type_of(request.urn, plain(news))
        tree, failures = checks.checked(self.cluster, kind, request, news, olds)
        marked = objects.with_marks(tree, news)
        return provider_pb2.CheckResponse(
            inputs=encode(marked),
            failures=[
                provider_pb2.CheckFailure(property=where, reason=redact(f"{kind}: {where} {why}", news))
                for where, why in failures
            ],
        )

    def Diff(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        olds, news = decode(request.olds), decode(request.news)
        old = plain(decode(request.old_inputs) or olds.get(INPUTS) or {})
        new = objects.normalized(plain(news))
        kind = objects.type_of(request.urn, new)
        mutable = not kind.patch and self.options.get(f"enable{kind.kind}Mutable", False) and not new.get("immutable")
        manager = objects.manager_for(request.urn, new, olds)
        plan = self._guarded(
            lambda: checks.plan(self.cluster, kind, old, new, list(request.ignoreChanges), manager, mutable=mutable),
            news,
        )
        live = plain(olds)
        same_place = qualified(new) == qualified(live) or objects.metadata(new, "name") == objects.metadata(
            live, "name"
        )
        autonamed = annotation(new, objects.AUTONAMED) == "true"
        kinds = {path: self._diff_kind(how, path in plan.replaces) for path, how in plan.changes.items()}
        replaces = sorted(text(path) for path in plan.replaces)
        if plan.unready:
            replaces.append('metadata.annotations["pulumi.com/replaceUnready"]')
        changed = bool(kinds) or plan.unready
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            replaces=replaces,
            diffs=sorted({str(path[0]) for path in kinds}),
            deleteBeforeReplace=bool(replaces) and same_place and not autonamed,
            detailedDiff={text(path): diff for path, diff in kinds.items()},
            hasDetailedDiff=True,
        )

    @staticmethod
    def _diff_kind(how: str, replace: bool) -> Any:
        name = f"{how}_REPLACE" if replace else how
        return provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(name), inputDiff=True)

    def Create(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        news = decode(request.properties)
        kind = objects.type_of(request.urn, plain(news))
        manager = objects.manager_for(request.urn, plain(news), {})
        if request.preview:
            shown = self._preview(request, news, kind, manager, new=True)
            return provider_pb2.CreateResponse(properties=encode(shown) if shown else request.properties)
        tree = manifest(news)
        live = self._guarded(
            lambda: apply.create(
                self.cluster,
                tree,
                manager,
                patch=kind.patch,
                upsert=self.options["upsertExistingObjects"],
                force=apply.forced(tree) or self.options["enablePatchForce"],
                cancelled=self.cancelled,
                say=lambda line: self.log.status(request.urn, redact(line, news)),
            ),
            news,
        )
        outputs = self._settled(request, news, live, kind.api_version, manager)
        return provider_pb2.CreateResponse(id=qualified(live), properties=encode(outputs))

    def Update(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        olds, news = decode(request.olds), decode(request.news)
        kind = objects.type_of(request.urn, plain(news))
        manager = objects.manager_for(request.urn, plain(news), olds)
        if request.preview:
            shown = self._preview(request, news, kind, manager, new=False, state=olds)
            return provider_pb2.UpdateResponse(properties=encode(shown) if shown else request.news)
        tree = manifest(news)

        def change() -> dict[str, Any]:
            namespace, name = split_id(request.id)
            found = self.cluster.get(kind.api_version, kind.kind, namespace, name)
            if found is None and kind.patch:
                raise PluginError(
                    f"{kind.kind}Patch {request.id}: there is no {kind.kind} {request.id} to patch any more."
                )
            apply.keep_ignored(tree, found or {"metadata": {}}, request.ignoreChanges, manager)
            force = apply.forced(tree) or self.options["enablePatchForce"]
            return apply.apply(self.cluster, tree, manager, force=force, patch=kind.patch)

        live = self._guarded(change, news)
        outputs = self._settled(request, news, live, plain(olds.get(INITIAL_VERSION)) or kind.api_version, manager)
        return provider_pb2.UpdateResponse(properties=encode(outputs))

    def Read(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        olds, inputs = decode(request.properties), decode(request.inputs)
        old = plain(inputs) or plain(olds.get(INPUTS)) or {}
        kind = objects.type_of(request.urn, old)
        namespace, name = split_id(request.id)
        live = self.cluster.get(kind.api_version, kind.kind, namespace, name)
        if live is None:
            return provider_pb2.ReadResponse()
        live = objects.respell(live, "x-kubernetes-", "x_kubernetes_")  # as the inputs are spelt
        # Without recorded inputs this is an import.
        now = objects.observed(old, plain(olds), live) if old else objects.importable(live)
        marks = inputs if old else live
        seen = objects.with_marks(now, marks)
        manager = objects.manager_for(request.urn, now, olds)
        outputs = objects.recorded(seen, live, plain(olds.get(INITIAL_VERSION)) or kind.api_version, manager)
        verdict = loop.look(self.cluster, live, now) if old else READY
        if not verdict.ready:
            reason = f"{kind.kind} {request.id} is not ready: {verdict.message}"
            raise InitError(reason, request.id, outputs, seen, [reason])
        return provider_pb2.ReadResponse(id=request.id, properties=encode(outputs), inputs=encode(seen))

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        olds = decode(request.properties)
        old = plain(olds.get(INPUTS) or {})
        kind = objects.type_of(request.urn, old)
        namespace, name = split_id(request.id)
        self._guarded(
            lambda: self._delete(request, kind, old, objects.manager_for(request.urn, old, olds), namespace, name), olds
        )
        return empty_pb2.Empty()

    def _delete(
        self, request: Any, kind: Type, old: Mapping[str, Any], manager: str, namespace: str, name: str
    ) -> None:
        try:
            live = self.cluster.get(kind.api_version, kind.kind, namespace, name)
        except UnreachableError as error:
            if self.options["deleteUnreachable"]:
                self.log.warning(
                    request.urn, f"{error} Taken out of the state all the same, as deleteUnreachable asks."
                )
                return
            raise UnreachableError(
                f"{error} If it is gone for good, PULUMI_K8S_DELETE_UNREACHABLE=true drops it from the state."
            ) from None
        if live is None:
            return
        if kind.patch:  # the object is not ours: give up our fields, nothing else
            bare = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
            bare["metadata"] |= {"namespace": namespace} if namespace else {}  # type: ignore[operator]
            self.cluster.apply(bare, manager)
            return
        asked = annotation(old, "pulumi.com/deletionPropagationPolicy").capitalize()
        policy = asked if asked in ("Orphan", "Background") else "Foreground"
        try:
            self.cluster.delete(kind.api_version, kind.kind, namespace, name, policy)
        except ApiError as error:
            if error.code != 404:
                raise
        if kind.kind == CRD:
            self.cluster.forget_types()
        if annotation(old, "pulumi.com/skipAwait") != "true":
            limit = loop.timeout_of(request.timeout, old)
            loop.until_gone(self.cluster, live, limit, self.cancelled, lambda line: self.log.status(request.urn, line))

    def _preview(
        self,
        request: Any,
        news: dict[str, Any],
        kind: Type,
        manager: str,
        *,
        new: bool,
        state: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Outputs that the real run would give; None: nobody can tell, and the inputs stand for them."""
        if has_unknown(news):
            return None
        tree = manifest(news)
        force = apply.forced(tree) or self.options["enablePatchForce"]
        try:
            shown = apply.preview(self.cluster, tree, manager, patch=kind.patch, force=force, new=new)
        except UnreachableError:
            return None
        except ApiError as error:
            self._refuse(error, news)
        if shown is None:
            return None
        version = plain((state or {}).get(INITIAL_VERSION)) or kind.api_version
        return objects.recorded(news, shown, version, manager)

    def _settled(
        self, request: Any, news: dict[str, Any], live: Mapping[str, Any], version: str, manager: str
    ) -> dict[str, Any]:
        """Outputs once the object is ready.

        Raises:
            InitError: it did not become ready; the state keeps it.
        """

        def say(line: str) -> None:
            self.log.status(request.urn, redact(line, news))

        try:
            live = loop.until_ready(self.cluster, live, plain(news), request.timeout, self.cancelled, say)
        except PluginError as error:
            seen = error.live if isinstance(error, loop.NotReadyError) else live
            reason = redact(str(error), news)
            outputs = objects.recorded(news, seen, version, manager)
            raise InitError(reason, qualified(seen), outputs, news, [reason]) from None
        if live.get("kind") == CRD:
            self.cluster.forget_types()
        say("")
        return objects.recorded(news, live, version, manager)

    def _guarded(self, action: Callable[[], _T], *trees: Any) -> _T:
        try:
            return action()
        except (ApiError, NoSuchTypeError) as error:
            self._refuse(error, *trees)

    @staticmethod
    def _refuse(error: PluginError, *trees: Any) -> NoReturn:
        """A refusal, without the secrets that it may quote."""
        raise PluginError(redact(str(error), *trees)) from None
