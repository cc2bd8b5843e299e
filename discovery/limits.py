"""Every limit of the daemon, named, with its unit in the name (listed for people in ``docs/limits.md``).

A queue, cache, name, body, connection count or answer without a line here is a defect.
"""

from __future__ import annotations

from typing import Final

# Names and values
LABEL_CHARS_MAX: Final = 63
PORT_NAME_CHARS_MAX: Final = 15  # RFC 6335 section 5.1
INSTANCE_ID_CHARS_MAX: Final = 128
ZONE_CHARS_MAX: Final = 57  # leaves room for the longest name below it (RFC 1035: 255 octets)
KEY_BYTES_MAX: Final = 512
VALUE_BYTES_MAX: Final = 512 * 1024
ADDRESSES_PER_INSTANCE_MAX: Final = 16
PORTS_PER_INSTANCE_MAX: Final = 64
TAGS_PER_INSTANCE_MAX: Final = 64
TAG_CHARS_MAX: Final = 255
META_PAIRS_MAX: Final = 64
META_KEY_CHARS_MAX: Final = 128
META_VALUE_CHARS_MAX: Final = 1024
VIRTUAL_IPS_MAX: Final = 16
LEASE_TTL_MS_MIN: Final = 1_000
LEASE_TTL_MS_MAX: Final = 24 * 3600 * 1000
LEASE_TTL_MS_DEFAULT: Final = 15_000
LEASE_CHECKPOINT_TTL_MS_MIN: Final = 60_000
BRAKE_TIMEOUT_MS_MIN: Final = 1_000
BRAKE_TIMEOUT_MS_MAX: Final = 3600 * 1000
BRAKE_TIMEOUT_MS_DEFAULT: Final = 300_000
LEASE_ATTACHMENTS_MAX: Final = 10_000
DNS_TTL_S_MAX: Final = 2**31 - 1  # RFC 2181 section 8; answers are capped at dns.ttl anyway
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255

ACTOR_CHARS_MAX: Final = 255  # longer ones are cut, as are details
EVENT_DETAIL_CHARS_MAX: Final = 1024
HISTORY_CHARS_MAX: Final = 64

# The state as a whole
INSTANCES_MAX: Final = 1_000_000
SERVICES_MAX: Final = 250_000
LEASES_MAX: Final = 2_000_000
KEYS_MAX: Final = 1_000_000
KEYS_BYTES_MAX: Final = 256 * 1024 * 1024
SHARED_VALUES_MAX: Final = 16_384  # equal lists of ports, tags, meta kept once; of each of two generations
SHARED_ADDRESSES_MAX: Final = 4_096

# Commands and the log
COMMAND_BYTES_MAX: Final = 900 * 1024
ENTRY_BYTES_MAX: Final = 960 * 1024  # a packed entry, below PySyncObj's batch size of 1 MiB
TXN_OPS_MAX: Final = 128
EVICTIONS_PER_COMMAND_MAX: Final = 20_000
EVICTIONS_OPEN_MAX: Final = 10_000  # leases whose eviction is proposed and not applied, before more are proposed
DELETIONS_PER_COMMAND_MAX: Final = 10_000  # keys that one delete by prefix, or one transaction, removes
CHANGE_LOG_CHANGES_MAX: Final = 16_384
CHANGE_LOG_BYTES_MAX: Final = 16 * 1024 * 1024
EVENTS_MAX: Final = 10_000
IDEMPOTENCY_KEYS_MAX: Final = 65_536
IDEMPOTENCY_AGE_MS: Final = 750_000  # of log time, so never less than ten minutes (decision 10)
IDEMPOTENCY_BYTES_MAX: Final = 64 * 1024 * 1024
IDEMPOTENCY_DIGEST_BYTES_MAX: Final = 64
TXN_RESULT_BYTES_MAX: Final = 900 * 1024
RESTORE_PART_BYTES: Final = 256 * 1024  # of a backup in one command; a single large row may make it more
RESTORE_BYTES_MAX: Final = 1024 * 1024 * 1024  # of a backup while it is being restored
RESTORE_AGE_MS: Final = 600_000  # after this without progress what a restore staged is dropped
LOG_RETAINED_BYTES: Final = 32 * 1024 * 1024
SNAPSHOT_LOG_BYTES_MIN: Final = 8 * 1024 * 1024  # of log between snapshots, or as many as one has
WAL_SEGMENT_BYTES: Final = 8 * 1024 * 1024
UNWRITTEN_LOG_BYTES_MAX: Final = 16 * 1024 * 1024  # that a node without room on its disk keeps in memory
DISK_STALL_S: Final = 2.0  # a write to the log that takes longer is told as a disk that does not answer
PROPOSALS_WAITING_MAX: Final = 10_000
PROPOSALS_WAITING_BYTES_MAX: Final = 64 * 1024 * 1024

# Peers
PEERS_MAX: Final = 9
PEER_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
PEER_SEND_BUFFER_BYTES_MAX: Final = 64 * 1024 * 1024
PEER_UNREAD_BYTES_MAX: Final = 16 * 1024 * 1024  # received and not worked off; then reading pauses
PEER_REQUESTS_MAX: Final = 1024  # unanswered questions of one peer
PEER_HANDSHAKES_MAX: Final = 32
PEER_HANDSHAKE_BYTES_MAX: Final = 4096
PEER_TLS_HANDSHAKE_BYTES_MAX: Final = 64 * 1024
PEER_HANDSHAKE_S_MAX: Final = 1.0
MEMBERSHIP_TIMEOUT_S: Final = 10.0  # a change of members; then 503 or 504
HANDOVER_TIMEOUT_S: Final = 3.0
SNAPSHOT_CHUNK_BYTES: Final = 512 * 1024

# HTTP
HTTP_BODY_BYTES_MAX: Final = COMMAND_BYTES_MAX
HTTP_HEADER_BYTES_MAX: Final = 16 * 1024
HTTP_CONNECTIONS_MAX: Final = 8_192
HTTP_CONNECTIONS_PER_CLIENT_MAX: Final = 1_024
HTTP_HEADER_S_MAX: Final = 10.0
HTTP_BODY_S_MAX: Final = 30.0
HTTP_BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  # a body of heartbeats or a transaction (base64 grows it by a third)
HTTP_BODIES_BYTES_MAX: Final = 64 * 1024 * 1024  # of all unfinished bodies together
HTTP_HEADERS_MAX: Final = 64
HTTP_IDLE_S_MAX: Final = 300.0  # a kept connection without a request
HTTP_SEND_S_MAX: Final = 60.0  # for a client to take an answer that does not fit the kernel's buffers
HTTP_SENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # of all answers that wait for their clients together
HTTP_LINGER_S_MAX: Final = 5.0  # reading on after a body was refused, so that the client sees the answer
HTTP_RESTORE_S_MAX: Final = 3600.0  # for a whole backup to arrive and be restored
HTTP_BACKUPS_MAX: Final = 2  # backups that a node writes at once; each holds a copy of the state
QUERY_PARAMETERS_MAX: Final = 32
JSON_DEPTH_MAX: Final = 16
JSON_CONTAINERS_MAX: Final = 100_000  # arrays and objects of a body; more than any that is accepted could hold
PROBLEM_ERRORS_MAX: Final = 32  # faults that one answer names
LIST_LIMIT_DEFAULT: Final = 1_000
LIST_LIMIT_MAX: Final = 10_000
LIST_BYTES_MAX: Final = 8 * 1024 * 1024  # of a page, roughly: it ends early, with "next"
HEARTBEATS_PER_REQUEST_MAX: Final = 10_000
HEARTBEATS_WAITING_MAX: Final = 200_000  # forwarded to the leader and not answered yet, on one node
HEARTBEAT_TIMEOUT_S: Final = 2.0
REMAINING_TIMEOUT_S: Final = 1.0
TROUBLE_CHARS_MAX: Final = 1_000  # that a node tells the others of what hinders it
TROUBLE_S_MAX: Final = 5.0  # for which that counts without being told again
BARRIER_TIMEOUT_S: Final = 5.0
WAIT_S_DEFAULT: Final = 60.0
WAIT_S_MAX: Final = 600.0
WRITE_TIMEOUT_S: Final = 10.0
VISIBLE_TIMEOUT_S: Final = 1.0

# Feed and DNS
FEED_FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
FEED_BACKLOG_BYTES_MAX: Final = 64 * 1024 * 1024
FEED_WORKER_FRAME_BYTES_MAX: Final = 1024 * 1024  # what a worker may send in one frame
FEED_CONNECTIONS_MAX: Final = 128
FEED_HELLO_S_MAX: Final = 5.0
FEED_SYNC_S_MAX: Final = 30.0  # for a whole view; single groups have VISIBLE_TIMEOUT_S
WORKER_CONNECT_S_MAX: Final = 15.0  # a worker on the port that does not come to the feed is replaced
DNS_WORKERS_MAX: Final = 64
DNS_UDP_BYTES_MAX: Final = 4096
DNS_TCP_CONNECTIONS_MAX: Final = 512
DNS_TCP_CONNECTIONS_PER_CLIENT_MAX: Final = 64
DNS_TCP_IDLE_S_MAX: Final = 10.0
DNS_TCP_QUERY_S_MAX: Final = 5.0
DNS_TCP_OUTSTANDING_BYTES_MAX: Final = 256 * 1024
DNS_CACHE_BYTES_MAX: Final = 16 * 1024 * 1024  # of a worker
DNS_ANSWERS_MAX: Final = 100
DNS_RATE_COUNTS_MAX: Final = 65_536  # client networks that a worker counts apart in a second
DNS_RATE_MAX: Final = 1_000_000
CNAME_CHAIN_MAX: Final = 8
DNS_PTR_NAMES_MAX: Final = 8
STALE_AFTER_S: Final = 2.0
DNS_TCP_OWED_MAX: Final = 64  # answers of other servers that a connection waits for
DNS_FORWARD_UPSTREAMS_MAX: Final = 16
DNS_FORWARDS_MAX: Final = 512  # questions of one worker that wait for other servers
DNS_FORWARD_TRIES_MAX: Final = 6  # of one question
DNS_FORWARD_SOCKETS_MAX: Final = 1_024  # to other servers, of one worker
DNS_FORWARD_S_MAX: Final = 4.0  # for an answer of other servers; resolvers give up after 5
DNS_FORWARD_CACHE_ENTRIES_MAX: Final = 16_384
DNS_FORWARD_CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
DNS_FORWARD_TTL_S_MAX: Final = 3600
DNS_FORWARD_DENIAL_TTL_S_MAX: Final = 60
DNS_FORWARD_STALE_S_MAX: Final = 86_400  # RFC 8767 section 5
DNS_FORWARD_FAILURE_S: Final = 1.0  # RFC 9520 section 3.2
