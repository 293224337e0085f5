"""The program for members' machines. It imports nothing of the server and works when this folder is copied alone.

Three kinds of process, so that training survives the death, the upgrade and the isolation of the agent:

    agent        `connect`: one WebSocket to the server; takes offers, passes orders on, sends what the spools hold
      supervisor   `supervise FOLDER`, one for each job, a session of its own: fetches the data, owns the training,
                   its pipes and its spool, uploads the result; goes on without the agent
        child        `child`: runs the recipe; dies with its supervisor

They meet in the folder of the attempt and nowhere else (`workspace`). Control flows like this:

    __main__ -> daemon (what to do with jobs) <-> connection (rules of the wire) <-> server
                daemon starts -> supervisor -> runner (one job from prepare to done) -> child -> recipes -> training
                                               runner writes -> spool -> read by connection
                                 supervisor -> transfers (HTTP: data down, artifacts up)

The server's worker uses `runner` in the same way with a depot of its own. `protocol` holds the words on the wire,
`formats` reads data files, `build` packs all of this into the one file that the site offers. Modules here import
torch only inside `recipes.<name>` and `training`, which only the child loads.
"""

__version__ = "0.1.0"
