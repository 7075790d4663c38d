// Package dimse is the DICOM network side of Hilum: the upper layer of PS3.8
// over TCP, as acceptor (Server) and requestor (Client), and the services
// C-ECHO and C-STORE of PS3.7 on it, each as SCP and SCU.
//
// One goroutine serves one association. It reads PDUs into one buffer, hands
// the data set of a C-STORE to the Handler as a stream that it never gathers,
// and answers with the status the handler returned. ARTIM, idle and lifetime
// deadlines bound how long a peer may hold a connection; the number of
// associations is capped.
//
// It refuses what PS3.8 tells to refuse: other application contexts and
// protocol versions, an unknown called AE title, PDUs in the wrong state, PDUs
// longer than agreed, fragments of several messages mixed together. It does not
// look into data sets: package dataset and the Handler do.
//
// See CONFORMANCE.md for the conformance statement.
package dimse
