"""Errors of the Kafka client as sentences: what was wrong, where, and what to do."""

from __future__ import annotations

import ssl

from aiokafka import errors

from streamlearn.events import ConnectorError, Fenced, StateMismatch, Unreachable, UsageError

FENCED = (
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    # What an end of a transaction gets that the broker has ended already.
    errors.InvalidTxnState,
)
SHARED = ". (Workers that end each other in turn share a source.options.instance: give each its own, or none)"
DENIED = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
REFUSED = (
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.AuthenticationMethodNotSupported,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


def explain(error: BaseException, where: str) -> ConnectorError:
    """`error` as one of ours. `where`: the brokers."""
    if isinstance(error, ConnectorError):
        return error
    while type(error) is errors.KafkaError and error.__cause__ is not None:
        error = error.__cause__  # "unexpected error", says the client
    if isinstance(error, FENCED):
        return Fenced(
            f"{where}: fenced: another worker of this group took over, or the broker gave up a transaction "
            f"that was open for too long; nothing is lost, a new start goes on from the last commit{SHARED}"
        )
    if isinstance(error, errors.InvalidProducerIdMapping):
        return Fenced(
            f"{where}: the broker has forgotten our transactional id (no commit for longer than its "
            "transactional.id.expiration.ms), or another worker has it since; nothing is lost, a new start "
            "goes on from the last commit"
        )
    if isinstance(error, REFUSED):
        return Unreachable(
            f"{where}: the broker refuses this user: check source.security.username, password and mechanism"
        )
    if isinstance(error, ssl.SSLError):
        return Unreachable(f"{where}: TLS failed ({error.reason or error}): check source.security.ca_file")
    if isinstance(error, DENIED):
        return Unreachable(f"{where}: not authorised ({_said(error)}): the user needs more rights there")
    if isinstance(error, errors.OffsetOutOfRangeError):
        return StateMismatch(
            f"{where}: the offsets to go on from are no longer in the log ({_said(error)}): retention has "
            "passed them, or the topic was made anew; a new start says how many are gone, and what to do"
        )
    if isinstance(error, errors.InvalidSessionTimeoutError):
        return UsageError(
            f"{where}: the broker doesn't allow this session timeout: set source.client.session_timeout_ms"
        )
    if isinstance(error, errors.InvalidTransactionTimeout):
        return UsageError(
            f"{where}: the broker doesn't allow transactions as long as source.patience: set that to at most "
            "the broker's transaction.max.timeout.ms"
        )
    if isinstance(error, errors.InconsistentGroupProtocolError):
        return UsageError(
            f"{where}: other consumers, which are no workers of streamlearn, are in this group: "
            "set another source.group_id"
        )
    if isinstance(error, errors.MessageSizeTooLargeError):
        return Unreachable(
            f"{where}: an output is larger than its topic takes: set the topic's max.message.bytes higher"
        )
    if type(error) is errors.UnknownError:
        # INVALID_RECORD (87) is among the codes that aiokafka has no name for.
        return Unreachable(
            f"{where}: the broker refuses what it was sent, for a reason that the client has no name for: is "
            "cleanup.policy compact set on an output's topic? That takes no record without a key; "
            "`streamlearn topics --check` says what doesn't fit"
        )
    if isinstance(error, TimeoutError | errors.KafkaTimeoutError | errors.RequestTimedOutError):
        return Unreachable(
            f"{where}: no answer in time; what was not committed is made again at the next start"
        )
    return Unreachable(f"{where}: {_said(error)}")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
