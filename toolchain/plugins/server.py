"""What both stand-ins share: the gRPC server that the engine talks to, its log, and errors as the engine wants them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from toolchain.plugins.wire import encode

# Every wait of a running update holds a thread, and Cancel needs one as well.
THREADS = 256
MESSAGE_BYTES = 400 * 1024 * 1024  # the engine's own limit


class PluginError(Exception):
    """A message for the user: it names the thing and the fix."""


class UnsupportedError(PluginError):
    """A question that the engine asks of every plugin and that this one has no answer to."""


class InitError(PluginError):
    """The object is there but did not become ready: the engine keeps it in the state and the next run continues.

    Attributes:
        id: the resource's id.
        state: outputs to record, as a tree.
        inputs: inputs to record.
        reasons: why it is not ready.
    """

    def __init__(self, message: str, id: str, state: Mapping[str, Any], inputs: Mapping[str, Any], reasons: list[str]):  # noqa: A002
        super().__init__(message)
        self.id, self.state, self.inputs, self.reasons = id, state, inputs, reasons


class Log:
    """Lines in the engine's display, next to the resource they are about; lost, not fatal, when the engine is away."""

    def __init__(self, address: str | None):
        self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address)) if address else None

    def status(self, urn: str, message: str) -> None:
        """A passing line: replaced by the next one, gone when the operation ends."""
        self._send(urn, message, engine_pb2.INFO, True)

    def info(self, urn: str, message: str) -> None:
        """A lasting line."""
        self._send(urn, message, engine_pb2.INFO, False)

    def warning(self, urn: str, message: str) -> None:
        """A lasting warning."""
        self._send(urn, message, engine_pb2.WARNING, False)

    def _send(self, urn: str, message: str, severity: Any, ephemeral: bool) -> None:
        if self._engine:
            with contextlib.suppress(grpc.RpcError):
                self._engine.Log(
                    engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=ephemeral), timeout=5
                )


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """Answers that are the same for every stand-in."""

    def __init__(self, name: str, engine: str | None):
        self.name = name
        self.log = Log(engine)
        self.cancelled = threading.Event()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return plugin_pb2.PluginInfo(version=version(f"pulumi-{self.name}"))

    def Attach(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        self.log = Log(request.address)
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        self.cancelled.set()
        return empty_pb2.Empty()

    def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return provider_pb2.GetSchemaResponse(
            schema=f'{{"name": "{self.name}", "version": "{version(f"pulumi-{self.name}")}"}}'
        )

    def CheckConfig(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_UNKNOWN)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, supports_autonaming_configuration=True
        )

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        raise PluginError(
            f"{request.tok}: the {self.name} stand-in has no functions. Install the official plugin "
            f"(`pulumi plugin install resource {self.name} {version(f'pulumi-{self.name}')}`) to call it."
        )

    def Call(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return self.Invoke(request, context)

    def Construct(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        raise PluginError(
            f"{request.type}: the {self.name} stand-in has no components (charts, YAML files, kustomize). Declare the "
            f"resources one by one, or install the official pulumi-resource-{self.name} plugin."
        )


# Without these the generated base class would print a traceback for each question that the engine may ask in vain.
OPTIONAL = ("Handshake", "Parameterize", "GetMapping", "GetMappings", "StreamInvoke", "List")


def _unsupported(self: Any, request: Any, context: Any) -> NoReturn:
    raise UnsupportedError("not supported by this stand-in")


for _name in OPTIONAL:
    setattr(Provider, _name, _unsupported)


class _Errors(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Turn exceptions into gRPC errors that show the message alone."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or not handler.unary_unary:
            return handler

        def answer(request: Any, context: Any) -> Any:
            try:
                return handler.unary_unary(request, context)
            except InitError as error:
                detail = provider_pb2.ErrorResourceInitFailed(
                    id=error.id, properties=encode(error.state), inputs=encode(error.inputs), reasons=error.reasons
                )
                packed = any_pb2.Any()
                packed.Pack(detail)
                status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[packed])
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
                context.abort(grpc.StatusCode.UNKNOWN, str(error))
            except UnsupportedError as error:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
            except PluginError as error:
                context.abort(grpc.StatusCode.UNKNOWN, str(error))
            except Exception as error:  # a mistake of ours: say where, and nothing of the values at hand
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(frame.filename).name}:{frame.lineno}"
                context.abort(
                    grpc.StatusCode.INTERNAL, f"the stand-in itself failed: {type(error).__name__} at {place}"
                )

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def _end_with_engine() -> None:
    """Leave when the engine that started us is gone, killed perhaps."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def serve(make: Callable[[str | None], Provider]) -> None:
    """Serve until the engine ends this process: print the port on stdout, as its plugin protocol wants.

    Args:
        make: a provider, given the engine's address (the program's first argument).
    """
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    provider = make(arguments[0] if arguments else None)
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    server = grpc.server(ThreadPoolExecutor(THREADS), interceptors=[_Errors()], options=options)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_engine, daemon=True).start()
    server.wait_for_termination()
