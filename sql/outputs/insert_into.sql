-- INSERT INTO … SELECT from a stream is a flow without a name of its own: it takes the table's.
-- SET gives the trigger of flows that name none.

SET trigger = 'available now';

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, carrier STRING, flight INT, origin STRING, dest STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE to_hawaii (sched_dep TIMESTAMP, carrier STRING, flight INT, origin STRING)
STORED AS PARQUET LOCATION 'out/insert_into/to_hawaii/';

INSERT INTO to_hawaii
SELECT sched_dep, carrier, flight, origin FROM STREAM flights WHERE dest = 'HNL';
