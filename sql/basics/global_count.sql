-- An aggregate without GROUP BY: one row, which every batch gives anew.

CREATE UNBOUNDED EXTERNAL TABLE flights (dep_delay INT, arr_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW global_count OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT count(*) AS flights, count(arr_delay) AS arrived, max(dep_delay) AS longest_delay, avg(dep_delay) AS delay
FROM STREAM flights;
