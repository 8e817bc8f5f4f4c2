-- layout 2: what a hybrid store notes here, see ../hybrid.py. Run once, as layout 1.

-- Whether turns of this session may have been acknowledged by Redis that are not in its log here: true from the commit
-- after which its holder goes on in Redis, until all of them are here and the holder has stopped.
ALTER TABLE rehydra.sessions ADD COLUMN hot boolean NOT NULL DEFAULT false;
