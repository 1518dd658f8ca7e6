"""A gRPC server and a gRPC client, without any generated code: messages are bytes.

    check.py serve NAME [--cert FILE --key FILE]     prints its port, serves until its input ends
    check.py call TARGET KIND [--ca FILE --host NAME] [--count N] [--size BYTES] [--deadline S]

The server has the methods of the service test.Echo: Unary signs what it gets, Stream answers five times
with a pause that ends when the client has read (each answer is awaited), Chat answers each message, and
Meta answers with the metadata that came in. The client prints one line for each answer, or the status.
"""

import argparse
import sys
import time
from concurrent import futures

import grpc

SERVICE = "test.Echo"


class Echo(grpc.GenericRpcHandler):
    """Signs its answers with a name."""

    def __init__(self, name):
        self.name = name.encode()

    def service(self, details):
        methods = {
            f"/{SERVICE}/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            f"/{SERVICE}/Stream": grpc.unary_stream_rpc_method_handler(self.stream),
            f"/{SERVICE}/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            f"/{SERVICE}/Meta": grpc.unary_unary_rpc_method_handler(self.meta),
            f"/{SERVICE}/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }
        return methods.get(details.method)

    def unary(self, request, _context):
        return self.name + b":" + request

    def stream(self, request, _context):
        for number in range(5):
            yield self.name + b":" + request + b":" + str(number).encode()

    def chat(self, requests, _context):
        for request in requests:
            yield self.name + b":" + request

    def meta(self, _request, context):
        pairs = [f"{key}={value}" for key, value in context.invocation_metadata()]
        return "\n".join(pairs + [f"peer={context.peer()}"]).encode()

    def fail(self, _request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def serve(arguments):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Echo(arguments.name),))
    if arguments.cert:
        pair = (read(arguments.key), read(arguments.cert))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials((pair,)))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


def open_channel(arguments):
    if arguments.ca:
        options = (("grpc.ssl_target_name_override", arguments.host),)
        return grpc.secure_channel(arguments.target, grpc.ssl_channel_credentials(read(arguments.ca)), options)
    return grpc.insecure_channel(arguments.target)


def call(arguments):
    with open_channel(arguments) as channel:
        deadline = {"timeout": arguments.deadline}
        path = f"/{SERVICE}/{arguments.kind}"
        try:
            if arguments.kind == "Stream":
                for answer in channel.unary_stream(path)(b"hello", **deadline):
                    print(answer.decode(), flush=True)
            elif arguments.kind == "Chat":
                chat(channel.stream_stream(path), arguments, deadline)
            else:
                for _ in range(arguments.count):
                    print(channel.unary_unary(path)(b"hello", **deadline).decode(), flush=True)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", flush=True)


def chat(method, arguments, deadline):
    """Each message is sent only when the one before it was answered."""
    seen = []

    def requests():
        for number in range(arguments.count):
            end = time.monotonic() + arguments.deadline
            while len(seen) < number and time.monotonic() < end:
                time.sleep(0.002)
            yield str(number).encode().ljust(arguments.size)

    for answer in method(requests(), **deadline):
        seen.append(answer)
        print(answer.decode().strip(), flush=True)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("serve")
    server.add_argument("name")
    server.add_argument("--cert")
    server.add_argument("--key")
    server.set_defaults(run=serve)
    client = commands.add_parser("call")
    client.add_argument("target")
    client.add_argument("kind", choices=["Unary", "Stream", "Chat", "Meta", "Fail", "Nothing"])
    client.add_argument("--ca")
    client.add_argument("--host", default="localhost")
    client.add_argument("--count", type=int, default=1)
    client.add_argument("--size", type=int, default=1)
    client.add_argument("--deadline", type=float, default=20)
    client.set_defaults(run=call)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
