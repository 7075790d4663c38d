// Package store keeps what must survive a restart: images (as DICOM Part 10
// bytes, exactly as they were received), what is known of their series, and the
// job queue. It lives in one data folder that one process holds at a time.
//
// It promises: an image whose Commit returned without error is on disk and stays
// readable, byte for byte, through kill -9 or power loss at any moment; an image
// whose Commit did not return is either there as a whole or not at all; memory,
// open files and the unfiled backlog are bounded by Options, not by what arrives.
// It refuses an image without UIDs, with a UID that is not plain text, and any
// image when the disk is nearly full (ErrFull). It does not look into images, and
// it knows no network. Files have mode 0600, folders 0700; no UID and no other
// value of a peer ever becomes a file name.
//
// # Data folder
//
//	lock                          flock of the process that holds the folder; its number
//	index.db                      bbolt: index of images and series, quarantine list, jobs
//	series/<aa>/<sha256>.db       bbolt: one file for each series, named by the hash of its UID
//	journal/<random>.journal      segments of the write-ahead journal
//	*.db.new                      a bbolt file being created; without meaning after a crash
//	backup-*/                     copies that a backup is made of; removed by Open
//	restoring                     a restore has not ended: Open refuses the folder
//
// A folder of an older schema is brought up to date (migrate.go): the index on
// Open, each series file when it is first opened. A newer one is refused.
//
// # The way of an image
//
// A Writer puts the bytes into a segment of the journal while they arrive, and has
// the disk begin with them at once (sync_file_range). Commit adds a commit frame,
// syncs the segment once (fdatasync) and answers. The filer goroutine later copies
// records into the file of their series, several in one transaction, then enters
// them into the index, in one transaction for many series, and then forgets them; a
// segment without live records starts again from its beginning. Until then they are
// read from the journal. The filer waits for a pause of arrivals, for an image to
// grow 5 s old, or for half the backlog.
//
// Why so: one fdatasync for each image instead of four or more (data and meta page
// of two bbolt files); overwriting a segment that has its blocks needs no
// metadata on disk, which makes that one sync about twice as fast as in a new file;
// and bbolt has one writer for a file, which scanners would wait for.
//
// Filing is idempotent: a crash between the transactions files again what the
// series file has already. On Open all segments are scanned. What the index does
// not list is admitted in commit order; what it lists was filed before. A
// tombstone, kept from the deletion of a series until the next clean Close, tells
// records of a deleted series, by their commit number.
//
// # Journal segment
//
// Records begin at multiples of 4096 bytes, the first at 0. A record is a chain of
// frames: data frames with 262096 bytes each, the last one shorter, then
// one commit frame. A frame is a header of 48 bytes (little endian) and its payload:
//
//	 0  "HJF1"
//	 4  type: 1 data, 2 commit; three zero bytes
//	 8  salt of the segment's present use (64 random bits)
//	16  number of the record in the segment, growing, not always by one
//	20  number of the frame in the record, from 0
//	24  length of the payload
//	28  CRC-32C of the payload
//	32  zeros
//	44  CRC-32C of bytes 0 to 43
//
// The chain ends at the first frame that is torn, has another salt than the frame
// at 0, or is out of turn. The salt keeps frames of a former use, and bytes that a
// peer made look like a frame, out of the chain. The commit payload is JSON: seq
// (commit number), series (whose file takes it), reason (when for quarantine),
// replaces (size of the image whose place it takes, 0 for none), sha256, image (Instance). A clean Close writes zeros over the first header.
//
// # Series file
//
//	meta    schema = 2; series = SeriesInstanceUID
//	images  key -> JSON: sha256, reason, order, seq, image (Instance)
//	data    key -> bucket: chunk number (8 bytes, big endian) -> up to 1048384 bytes;
//	        with more than 8 chunks: key -> bucket: group -> bucket of the 8 chunks
//	        whose number divided by 8 is the group
//
// The key is the SOPInstanceUID; in quarantine, the UID, a zero byte and the
// SHA-256 in hexadecimal. A bucket for each image keeps bbolt from rewriting the
// neighbours of what it adds. An image is there when images has it; data without is
// a try that did not end. All series files together can rebuild the index, which
// Open does when index.db is missing.
//
// # Index
//
//	meta        schema = 2; order, seq: highest numbers given to filed records
//	series      UID -> JSON: Filed (order up to which it counts), Series
//	studies     study UID, zero byte, series UID -> nothing
//	patients    16 bytes of the SHA-256 of the Patient ID, study UID, zero byte, series UID -> nothing
//	instances   SOPInstanceUID -> version 1, SHA-256, size (8 bytes), series UID
//	quarantine  key -> JSON
//	tombstones  series UID -> seq at its deletion
//	jobs, jobkeys, jobstates   see queue.go
//	records     see records.go
//
// All callers that change the index at the same time share one transaction.
//
// # Duplicates
//
// Commits of one SOPInstanceUID are serialised. The same bytes again are a
// Duplicate: nothing is written. Other bytes, also under another series, are a
// Conflict: the first image stays, the second goes to quarantine in the file of
// the series of the first, and is deleted with it. Options.Duplicates may say
// otherwise: Reject keeps nothing of the second; Replace, within one series, has
// it take the place of the first. The first is deleted by the transaction that
// files the second, which is durable in the journal by then, and the series is
// incomplete again. Of two replacements the one with the higher commit number
// (seq) is the newer.
package store
