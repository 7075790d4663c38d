"""pynetdicom as the peer of a node, driven by the Go tests.

    pynet.py scp TITLE FOLDER [TITLE=PORT…]   answers everything, until it is killed
    pynet.py OPERATION TITLE PORT CALLED [ARGUMENT…]   asks once; see Asker

Prints a line of JSON for all that it is told, and nothing else.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom import sop_class as sop
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.transport import ThreadedAssociationServer

_config.STORE_SEND_CHUNKED_DATASET = True  # a file as it is: nothing decoded, nothing encoded again

LOOPBACK = "127.0.0.1"
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
CT, MR = sop.CTImageStorage, sop.MRImageStorage
COMMITMENT, COMMITMENT_INSTANCE = sop.StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
STEP, AVAILABILITY = sop.ModalityPerformedProcedureStep, sop.InstanceAvailabilityNotification
FINDS = {
    "P": sop.PatientRootQueryRetrieveInformationModelFind,
    "S": sop.StudyRootQueryRetrieveInformationModelFind,
}
MOVES = {
    "P": sop.PatientRootQueryRetrieveInformationModelMove,
    "S": sop.StudyRootQueryRetrieveInformationModelMove,
}
GETS = {
    "P": sop.PatientRootQueryRetrieveInformationModelGet,
    "S": sop.StudyRootQueryRetrieveInformationModelGet,
}

lock = threading.Lock()


class Checkpoint(threading.Event):
    """Stops pynetdicom's reactor for real.

    pynetdicom 3.0.4 takes it for stopped while it is still on its way past the checkpoint, where,
    on a busy machine, it swallows the response that send_c_store() then waits for.
    """

    def clear(self) -> None:
        super().clear()
        time.sleep(0.02)


def begin(self: Association, *args: object, **kwargs: object) -> None:
    made(self, *args, **kwargs)
    self._reactor_checkpoint = Checkpoint()
    self._reactor_checkpoint.set()


made, Association.__init__ = Association.__init__, begin


def tell(event: str, **what: object) -> None:
    with lock:
        print(json.dumps({"event": event, **what}), flush=True)


def identifier(pairs: list[str]) -> Dataset:
    ds = Dataset()
    for pair in pairs:
        keyword, value = pair.split("=", 1)
        setattr(ds, keyword, value)
    return ds


def code(status: Dataset) -> str:
    return f"{status.Status:04X}" if "Status" in status else "none"


def counts(status: Dataset) -> list[int]:
    return [
        status.get(f"NumberOf{name}Suboperations", 0)
        for name in ("Remaining", "Completed", "Failed", "Warning")
    ]


def reference(class_uid: str, uid: str) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = class_uid, uid
    return ds


class Keeper:
    """Keeps what it is sent as files, in the bytes that came."""

    def __init__(self, folder: str) -> None:
        self.folder, self.kept = Path(folder), 0

    def store(self, event: evt.Event) -> int:
        with lock:
            self.kept += 1
            name = self.folder / f"{self.kept:06}.dcm"
        name.write_bytes(event.encoded_dataset())
        tell(
            "stored",
            uid=event.request.AffectedSOPInstanceUID,
            move=event.request.MoveOriginatorApplicationEntityTitle,
        )
        return 0

    def matches(self, keys: Dataset) -> Iterator[Dataset]:
        """What is held and fits, by equal values of unique keys and of Patient ID."""
        for name in sorted(self.folder.glob("*.dcm")):
            ds = dcmread(name)
            wanted = (
                (k, keys.get(k))
                for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
            )
            if all(not value or ds.get(keyword) == value for keyword, value in wanted):
                yield ds


class Provider(Keeper):
    """The SCP."""

    def __init__(self, title: str, folder: str, others: list[str]) -> None:
        super().__init__(folder)
        self.ae = AE(title)
        self.others = {name: int(port) for name, port in (other.split("=") for other in others)}

    def serve(self) -> None:
        self.ae.add_supported_context(sop.Verification)
        for context in AllStoragePresentationContexts:
            self.ae.add_supported_context(context.abstract_syntax, scu_role=True, scp_role=True)
        for uid in (*FINDS.values(), *MOVES.values(), *GETS.values(), STEP, AVAILABILITY):
            self.ae.add_supported_context(uid)
        self.ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_C_FIND, self.find),
            (evt.EVT_C_MOVE, self.move),
            (evt.EVT_C_GET, self.get),
            (evt.EVT_N_ACTION, self.action),
            (evt.EVT_N_EVENT_REPORT, reported),
            (evt.EVT_N_CREATE, self.create),
        ]
        server = self.ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
        assert isinstance(server, ThreadedAssociationServer)
        tell("listening", port=server.server_address[1])
        threading.Event().wait()

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        level = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
        unique = level.get(keys.QueryRetrieveLevel, "SOPInstanceUID")
        seen = set()
        for ds in self.matches(keys):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            if ds.get(unique) in seen:
                continue
            seen.add(ds.get(unique))
            answer = Dataset()
            for element in keys:
                setattr(answer, element.keyword, ds.get(element.keyword, ""))
            answer.QueryRetrieveLevel, answer.SpecificCharacterSet = (
                keys.QueryRetrieveLevel,
                ds.get("SpecificCharacterSet", ""),
            )
            yield 0xFF00, answer

    def move(self, event: evt.Event) -> Iterator[object]:
        port = self.others.get(event.move_destination)
        if port is None:
            yield None, None
            return
        found = list(self.matches(event.identifier))
        contexts = [build_context(uid, syntax) for uid in (CT, MR) for syntax in UNCOMPRESSED]
        yield LOOPBACK, port, {"contexts": contexts}
        yield len(found)
        for ds in found:
            yield 0xFF00, ds

    def get(self, event: evt.Event) -> Iterator[object]:
        found = list(self.matches(event.identifier))
        yield len(found)
        for ds in found:
            yield 0xFF00, ds

    def action(self, event: evt.Event) -> tuple[int, None]:
        """Commits to what is held, and says so on an association of its own."""
        asked = event.action_information
        answer = Dataset()
        answer.TransactionUID = asked.TransactionUID
        held = {
            dcmread(name, stop_before_pixels=True).SOPInstanceUID
            for name in self.folder.glob("*.dcm")
        }
        good = [
            item for item in asked.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in held
        ]
        bad = [
            item
            for item in asked.ReferencedSOPSequence
            if item.ReferencedSOPInstanceUID not in held
        ]
        for item in bad:
            item.FailureReason = 0x0112
        if good:
            answer.ReferencedSOPSequence = good
        if bad:
            answer.FailedSOPSequence = bad
        who = event.assoc.requestor.ae_title
        threading.Thread(
            target=self.report, args=(who, answer, 2 if bad else 1), daemon=True
        ).start()
        return 0, None

    def report(self, title: str, answer: Dataset, event_type: int) -> None:
        ae = AE(self.ae.ae_title)
        ae.add_requested_context(COMMITMENT)
        assoc = ae.associate(
            LOOPBACK,
            self.others[title],
            ae_title=title,
            ext_neg=[build_role(COMMITMENT, scp_role=True)],
        )
        status, _ = assoc.send_n_event_report(answer, event_type, COMMITMENT, COMMITMENT_INSTANCE)
        tell("reported", status=code(status), type=event_type)
        assoc.release()

    def create(self, event: evt.Event) -> tuple[int, Dataset]:
        ds = event.attribute_list
        tell(
            "created",
            sop_class=event.request.AffectedSOPClassUID,
            uid=event.request.AffectedSOPInstanceUID,
            data=ds.to_json_dict(),
        )
        return 0, ds


def reported(event: evt.Event) -> tuple[int, None]:
    ds = event.event_information
    lists = {
        name: [item.ReferencedSOPInstanceUID for item in ds.get(keyword, [])]
        for name, keyword in (
            ("committed", "ReferencedSOPSequence"),
            ("failed", "FailedSOPSequence"),
        )
    }
    tell("outcome", type=event.event_type, transaction=ds.TransactionUID, **lists)
    heard.set()
    return 0, None


heard = threading.Event()


class Asker:
    """The SCU: one association, one operation."""

    def __init__(self, title: str, port: str, called: str) -> None:
        self.ae, self.port, self.called = AE(title), int(port), called
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = 30

    def associate(
        self, negotiate: list[Any] | None = None, handlers: list[Any] | None = None
    ) -> Association:
        assoc = self.ae.associate(
            LOOPBACK,
            self.port,
            ae_title=self.called,
            ext_neg=negotiate or [],
            evt_handlers=handlers or [],
        )
        if not assoc.is_established:
            result = assoc.acceptor.primitive
            tell(
                "rejected",
                result=getattr(result, "result", None),
                source=getattr(result, "result_source", None),
                reason=getattr(result, "diagnostic", None),
            )
            sys.exit(0)
        return assoc

    def echo(self, user: str = "", passcode: str = "") -> None:
        """With everything there is to negotiate."""
        self.ae.add_requested_context(sop.Verification)
        self.ae.add_requested_context(CT)
        self.ae.add_requested_context(MR)
        self.ae.add_requested_context(COMMITMENT)
        self.ae.add_requested_context(GETS["S"])
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 5, 3
        negotiate: list[Any] = [
            window,
            build_role(CT, scp_role=True),
            build_role(MR, scu_role=True, scp_role=True),
            build_role(COMMITMENT, scu_role=True, scp_role=True),
        ]
        if user:
            identity = UserIdentityNegotiation()
            identity.user_identity_type = 2 if passcode else 1
            identity.primary_field = user.encode()
            if passcode:
                identity.secondary_field = passcode.encode()
            identity.positive_response_requested = True
            negotiate.append(identity)
        assoc = self.associate(negotiate)
        answered = assoc.acceptor.user_identity
        tell(
            "associated",
            window=list(assoc.acceptor.asynchronous_operations),
            roles={cx.abstract_syntax: [cx.as_scu, cx.as_scp] for cx in assoc.accepted_contexts},
            user=answered is not None and answered.server_response == b"",
            version=assoc.acceptor.implementation_version_name,
        )
        for _ in range(3):
            tell("echo", status=code(assoc.send_c_echo()))
        assoc.release()

    def store(self, folder: str) -> None:
        names = sorted(Path(folder).glob("*.dcm"))
        for name in names:
            ds = dcmread(name, stop_before_pixels=True)
            self.ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        # One context for each transfer syntax: what is sent needs no conversion.
        contexts, self.ae.requested_contexts = self.ae.requested_contexts, []
        split = []
        for context in contexts:
            for syntax in context.transfer_syntax:
                one = type(context)()
                one.abstract_syntax, one.transfer_syntax = context.abstract_syntax, [syntax]
                split.append(one)
        self.ae.requested_contexts = split
        assoc = self.associate()
        for name in names:
            tell("store", status=code(assoc.send_c_store(name)))
        assoc.release()

    def find(self, model: str, cancel_after: str, *pairs: str) -> None:
        self.ae.add_requested_context(FINDS[model])
        assoc = self.associate()
        for n, (status, ds) in enumerate(
            assoc.send_c_find(identifier(list(pairs)), FINDS[model], msg_id=7), 1
        ):
            found = {e.keyword: str(e.value) for e in ds if e.VR != "SQ"} if ds is not None else {}
            tell("find", status=code(status), **found)
            if n == int(cancel_after):
                assoc.send_c_cancel(7, query_model=FINDS[model])
        assoc.release()

    def get(self, model: str, folder: str, *pairs: str) -> None:
        self.ae.add_requested_context(GETS[model])
        self.ae.add_requested_context(CT, ExplicitVRLittleEndian)
        self.ae.add_requested_context(MR, ExplicitVRLittleEndian)
        roles = [build_role(CT, scp_role=True), build_role(MR, scp_role=True)]
        assoc = self.associate(roles, [(evt.EVT_C_STORE, Keeper(folder).store)])
        for status, _ in assoc.send_c_get(identifier(list(pairs)), GETS[model]):
            tell("get", status=code(status), counts=counts(status))
        assoc.release()

    def move(self, model: str, destination: str, *pairs: str) -> None:
        self.ae.add_requested_context(MOVES[model])
        assoc = self.associate()
        for status, _ in assoc.send_c_move(identifier(list(pairs)), destination, MOVES[model]):
            tell("move", status=code(status), counts=counts(status))
        assoc.release()

    def commit(self, transaction: str, wait: str, *uids: str) -> None:
        """Asks for storage commitment, and waits so many seconds for the outcome."""
        self.ae.add_requested_context(COMMITMENT)
        ds = Dataset()
        ds.TransactionUID = transaction
        ds.ReferencedSOPSequence = [reference(CT, uid) for uid in uids]
        assoc = self.associate(handlers=[(evt.EVT_N_EVENT_REPORT, reported)])
        status, _ = assoc.send_n_action(ds, 1, COMMITMENT, COMMITMENT_INSTANCE)
        tell("action", status=code(status))
        heard.wait(float(wait))
        assoc.release()

    def step(self, uid: str, study: str, series: str, *images: str) -> None:
        """Reports a performed procedure step: its beginning, and its end twice."""
        self.ae.add_requested_context(STEP)
        scheduled, begun, ended, performed = Dataset(), Dataset(), Dataset(), Dataset()
        scheduled.StudyInstanceUID = study
        begun.ScheduledStepAttributesSequence, begun.PerformedSeriesSequence = [scheduled], []
        begun.PerformedProcedureStepID, begun.PerformedStationAETitle, begun.Modality = (
            "1",
            self.ae.ae_title,
            "CT",
        )
        begun.PerformedProcedureStepStartDate, begun.PerformedProcedureStepStartTime = (
            "20260102",
            "101112",
        )
        begun.PerformedProcedureStepStatus, begun.PatientName, begun.PatientID = (
            "IN PROGRESS",
            "SECRET^NAME",
            "P",
        )
        performed.SeriesInstanceUID = series
        performed.ReferencedImageSequence = [reference(CT, image) for image in images]
        ended.PerformedProcedureStepStatus, ended.PerformedSeriesSequence = "COMPLETED", [performed]
        ended.PerformedProcedureStepEndDate, ended.PerformedProcedureStepEndTime = (
            "20260102",
            "101212",
        )
        assoc = self.associate()
        tell("create", status=code(assoc.send_n_create(begun, STEP, uid)[0]))
        for _ in range(2):
            tell("set", status=code(assoc.send_n_set(ended, STEP, uid)[0]))
        assoc.release()


if __name__ == "__main__":
    operation, *arguments = sys.argv[1:]
    if operation == "scp":
        Provider(arguments[0], arguments[1], arguments[2:]).serve()
    else:
        getattr(Asker(*arguments[:3]), operation)(*arguments[3:])
