-- Nexmark q11, user sessions: how many bids did a user make before ten seconds passed without one?

CREATE UNBOUNDED EXTERNAL TABLE bid (
  bidder BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE sessions STORED AS PARQUET LOCATION 'out/nexmark/q11/';

CREATE FLOW q11 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO sessions
SELECT bidder, count(*) AS bids, session_window.start AS start_time, session_window.end AS end_time
FROM STREAM bid
GROUP BY session_window(date_time, '10 seconds'), bidder;
