-- CSV with a header, and JSON lines: two flows side by side over one input.
-- Without CHECKPOINT each keeps it beside its output, in _millstream/<flow>.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE as_csv STORED AS CSV LOCATION 'out/csv_and_json/csv/' OPTIONS ('format.has_header' 'true');
CREATE EXTERNAL TABLE as_json STORED AS JSON LOCATION 'out/csv_and_json/json/';

CREATE FLOW to_csv OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO as_csv
SELECT sched_dep, carrier, flight, dep_delay FROM STREAM flights WHERE dep_delay >= 240;

CREATE FLOW to_json OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO as_json
SELECT sched_dep, carrier, flight, dep_delay FROM STREAM flights WHERE dep_delay <= -15;
