"""A yard, its machines, its workers and the network between them in one process, on virtual time, from a seed.

The code is the real one: the agent's daemon, connection, window and spool; the server's sessions, training jobs, credits
and clock on a real database; the worker's line. Simulated are time, the network, processes, the queue, the disks'
fullness and the training itself. The same seed gives the same history.

clock      virtual time, processes that freeze and die     link       the network and what goes wrong on it
training   a training under its supervisor or horse        machine    a member's machine with the real agent
site       the server: its sockets and its clock           doors      queue, hints and database, and their troubles
workers    the server's workers                            world      all of it together, and what it remembers
stage      a prepared yard, and playing on it              checks     what must hold afterwards
rows_*     the rows of the failure matrix                  kept       seeds that found something once
"""
