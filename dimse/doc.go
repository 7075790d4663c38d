// Package dimse is the DICOM network side of Hilum: the upper layer of PS3.8
// over TCP, as acceptor (Server) and requestor (Client), and the services
// C-ECHO and C-STORE of PS3.7 on it, each as SCP and SCU.
//
// One goroutine reads one association, PDU by PDU into one buffer. Each operation
// runs on a goroutine of its own (operation.go), which has the reading side while
// its data set comes, as a stream that nobody gathers, and answers with the
// status that the Handler returned. While one image is on its way to the disk the
// next message is read, where the peer negotiated an asynchronous operations
// window. ARTIM, idle and lifetime deadlines bound how long a peer may hold a
// connection; associations, operations and bytes in flight are capped.
//
// It refuses what PS3.8 tells to refuse: other application contexts and
// protocol versions, an unknown called AE title, PDUs in the wrong state, PDUs
// longer than agreed, fragments of several messages mixed together. It does not
// look into data sets: package dataset and the Handler do.
//
// See CONFORMANCE.md for the conformance statement.
package dimse
