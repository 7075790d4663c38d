"""A Hilum plugin in Python: marks the densest cube of 10 mm of a series. An example, no detector.

It needs grpcio, grpcio-tools, cryptography, pydicom and NumPy. The node starts it by a launcher, as
plugins/README.md shows; the contract is plugins/api/pluginpb/plugin.proto.
"""

import base64
import datetime
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pydicom
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PROTOCOL, MAX_JOB_BYTES = 1, 80 << 20  # as in plugins/api
EDGE_MM, LEAST = 10.0, 3
sys.path.append(os.environ.get("HILUM_PROTO", str(Path(__file__).parents[2] / "api" / "pluginpb")))
pb, services = grpc.protos_and_services("plugin.proto")


class BadSeriesError(Exception):
    """A series that cannot be analysed, now or later. People see its text: no patient data."""


class Plugin(services.PluginServicer):
    """The service of plugin.proto."""

    def __init__(self) -> None:
        self.busy = threading.Lock()  # one job at a time

    def Describe(self, _request: object, _context: grpc.ServicerContext) -> object:  # noqa: N802 (the names of the proto)
        return pb.Description(
            name="densest",
            version="1",
            kind="detector",
            modalities=["CT"],
            devices=["cpu"],
            runtime=f"NumPy {np.__version__}",
        )

    def Drain(self, _request: object, _context: grpc.ServicerContext) -> object:  # noqa: N802
        with self.busy:
            return pb.DrainReply()

    def Analyze(self, job: object, context: grpc.ServicerContext) -> Iterator[object]:  # noqa: N802
        with self.busy:
            try:
                slices, names = [], sorted(Path(job.folder).iterdir())
                for name in names:
                    if not context.is_active():  # cancelled, or out of time
                        return
                    part = len(slices) / len(names)
                    yield pb.Event(progress=pb.Progress(fraction=part, message="reading"))
                    slices.append(read(name))
                place, hu = densest(slices)
            except BadSeriesError as err:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(err))
            except Exception as err:  # its text may be patient data: say where it was, not what
                line = traceback.extract_tb(err.__traceback__)[-1].lineno
                context.abort(grpc.StatusCode.UNKNOWN, f"{type(err).__name__} in line {line}")
            edge = pb.Vector(x=EDGE_MM, y=EDGE_MM, z=EDGE_MM)
            yield pb.Event(
                finding=pb.Finding(
                    id="1",
                    center=pb.Vector(x=place[0], y=place[1], z=place[2]),
                    size=edge,
                    diameter_mm=EDGE_MM,
                    probability=0.5,
                    label="densest",
                )
            )
            yield pb.Event(result=pb.Result(device="cpu", attributes={"mean_hu": f"{hu:.0f}"}))


Slice = tuple[float, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def read(name: Path) -> Slice:
    """Return one slice: its place along the normal, its plane, and HU."""
    try:
        d = pydicom.dcmread(name)
        row, column = np.split(np.array(d.ImageOrientationPatient, float), 2)
        origin = np.array(d.ImagePositionPatient, float)
        down, right = (float(v) for v in d.PixelSpacing)
        hu = d.pixel_array * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))
    except OSError:
        raise  # the disk, not the series: the node tries again
    except Exception as err:  # whatever a file holds: its text may be patient data
        raise BadSeriesError(
            f"a file of the series cannot be read ({type(err).__name__})"
        ) from None
    return float(origin @ np.cross(row, column)), (origin, row * right, column * down), hu


def densest(slices: list[Slice]) -> tuple[np.ndarray, float]:
    """Return the centre of the densest cube in LPS mm, and its mean HU."""
    if len(slices) < LEAST or len({s[2].shape for s in slices}) != 1:
        raise BadSeriesError(
            f"the series has fewer than {LEAST} images, or images of several sizes"
        )
    slices.sort(key=lambda s: s[0])
    origin, right, down = slices[0][1]
    up = (slices[-1][1][0] - origin) / (len(slices) - 1)
    total = np.stack([s[2] for s in slices]).astype(np.float64)
    size = []
    for axis, step in enumerate((up, down, right)):
        n = int(np.clip(round(EDGE_MM / max(np.linalg.norm(step), 1e-3)), 1, total.shape[axis]))
        sums = np.insert(total.cumsum(axis), 0, 0, axis)
        last = sums.shape[axis] - n
        total = sums.take(range(n, n + last), axis) - sums.take(range(last), axis)
        size.append(n)
    best = np.unravel_index(total.argmax(), total.shape)
    z, y, x = (b + (n - 1) / 2 for b, n in zip(best, size, strict=True))
    return origin + z * up + y * down + x * right, total[best] / np.prod(size)


def certificate() -> tuple[bytes, x509.Certificate]:
    """Make this process a key and a certificate, which the node takes from the handshake line."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + 7300 * day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    made = made.add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()), made


def main() -> int:
    """Serve until the node is gone."""
    node = os.environ.get("PLUGIN_CLIENT_CERT")
    if not node:
        print("This program is a plugin: name it in Hilum's configuration.", file=sys.stderr)
        return 1
    key, own = certificate()
    warnings.simplefilter("ignore")  # pydicom's quote what stands in the files
    # Several threads: health and Drain are answered while a job runs.
    size = [("grpc.max_receive_message_length", MAX_JOB_BYTES)]  # findings handed on come with it
    server = grpc.server(futures.ThreadPoolExecutor(4), options=size)
    services.add_PluginServicer_to_server(Plugin(), server)
    serving = b"\x08\x01"  # HealthCheckResponse with the status SERVING
    check = {"Check": grpc.unary_unary_rpc_method_handler(lambda _request, _context: serving)}
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", check)
    server.add_generic_rpc_handlers((health,))
    socket = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], f"densest-{os.getpid()}.sock")
    pair = [(key, own.public_bytes(serialization.Encoding.PEM))]
    mutual = grpc.ssl_server_credentials(pair, node.encode(), require_client_auth=True)
    server.add_secure_port(f"unix:{socket}", mutual)
    server.start()
    der = base64.b64encode(own.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the node stops; no job runs then
    print(f"1|{PROTOCOL}|unix|{socket}|grpc|{der}", flush=True)
    os.dup2(2, 1)  # from here on stdout is the log, whatever prints
    sys.stdin.read()  # its end means that the node is gone
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
