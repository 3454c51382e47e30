"""The servers that a user could build instead, each in a file that its framework runs.

A server's file knows its framework, `batched` (the model's part, the same for all that batch) and `batch_log`. It is
told what to do by the environment, since some frameworks import it in processes of their own:

    PEER_MODEL       directory of the checkpoint
    PEER_THREADS     torch's threads
    PEER_BATCH       most documents in a batch
    PEER_WAIT_MS     the longest that a document waits for company
    PEER_BATCH_LOG   file that gets a line for each batch

`launching` starts and stops them, `environments` makes the virtual environments they run in.
"""
