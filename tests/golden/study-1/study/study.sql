BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'study');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
INSERT INTO "study_directions" VALUES(3,'MINIMIZE',1,2);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'identity','{"model": "9d0e66387576bb8b", "data": "af892055931dd46b", "profile": "1055c2e813e364a1", "seed": 0, "space": "78f507ec038c8913", "budget": "size_bytes \u2264 2800, latency_ms \u2264 900.0, macs \u2264 1000000, max_drop \u2264 0.5"}');
INSERT INTO "study_user_attributes" VALUES(2,1,'first trials','1');
INSERT INTO "study_user_attributes" VALUES(3,1,'rung:0:1','"{\"data\":{\"file\":\"1c0bc3db6db85f690cd4230758749c12e50e878f5a8d7e86e0e299a2f3191909\",\"metrics\":{\"accuracy\":1.0,\"accuracy_error\":0.08267972847076846,\"cross_entropy\":0.0,\"latency_ms\":0.10460347969175761,\"macs\":23088,\"params\":1299,\"peak_memory_bytes\":768,\"size_bytes\":2573},\"receipts\":[{\"facts\":{\"epochs\":32.0,\"label_weight\":0.49968741173728926,\"learning_rate\":0.005,\"plateau_at_step\":null,\"steps\":32},\"site\":\"\",\"technique\":\"distill\"},{\"facts\":{\"scales\":{\"0\":[0.007574475,0.00548589,0.007437692,0.008478546]},\"weight_bits\":8},\"site\":\"0\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"3\":[0.00492736,0.005578749,0.007110232,0.009462281]},\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"8\":[0.010388587,0.011679415,0.011047501]},\"weight_bits\":8},\"site\":\"8\",\"technique\":\"quantize\"},{\"facts\":{\"scale\":0.0025990004651248455,\"zero_point\":0},\"site\":\"0:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.010802743956446648,\"zero_point\":0},\"site\":\"3:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.008457072079181671,\"zero_point\":0},\"site\":\"8:input\",\"technique\":\"activation-range\"}],\"rung\":1,\"sources\":{\"accuracy\":\"measured\",\"accuracy_error\":\"measured\",\"cross_entropy\":\"measured\",\"latency_ms\":\"estimated\",\"macs\":\"measured\",\"params\":\"measured\",\"peak_memory_bytes\":\"estimated\",\"size_bytes\":\"measured\"},\"timings\":{\"compress\":0.0328562279973994,\"distill\":1.8032363570018788,\"export\":0.0749183260013524,\"inherit\":0.014718733000336215,\"score\":0.15621304399974179,\"time\":0.012950181000633165},\"weights\":\"b1156ff3666c1433e7ea092e7c608ab4ede81add1addf5379dda1ad93642ab68\"},\"schema\":\"autocompress/evaluation\",\"version\":1}"');
INSERT INTO "study_user_attributes" VALUES(4,1,'rung:1:1','"{\"data\":{\"file\":\"74f12fef28a8752c2ccf97c5b9a050eb31e86102140efd6dd41d63e7efbf470b\",\"metrics\":{\"accuracy\":1.0,\"accuracy_error\":0.08267972847076846,\"cross_entropy\":0.0,\"latency_ms\":0.0791167540280408,\"macs\":11568,\"params\":683,\"peak_memory_bytes\":512,\"size_bytes\":2696},\"receipts\":[{\"facts\":{\"kept\":[3,4,5,6]},\"site\":\"0\",\"technique\":\"prune\"},{\"facts\":{\"from\":\"e292c2f7272ed77d\",\"inherited_divergence\":0.002073,\"layers\":[],\"own_divergence\":0.001574},\"site\":\"\",\"technique\":\"inherit\"},{\"facts\":{\"epochs\":32.0,\"label_weight\":0.1,\"learning_rate\":0.02,\"plateau_at_step\":null,\"steps\":32},\"site\":\"\",\"technique\":\"distill\"},{\"facts\":{\"scales\":{\"0\":[0.033026587,0.020433562,0.032653365,0.028680112]},\"weight_bits\":4},\"site\":\"0\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"3\":[0.00591849,0.00938276,0.003871748,0.013715415]},\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"8\":[0.041789196,0.051082354,0.046634424]},\"weight_bits\":4},\"site\":\"8\",\"technique\":\"quantize\"},{\"facts\":{\"scale\":0.0025990004651248455,\"zero_point\":0},\"site\":\"0:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.010091932490468025,\"zero_point\":0},\"site\":\"3:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.008195461705327034,\"zero_point\":0},\"site\":\"8:input\",\"technique\":\"activation-range\"}],\"rung\":1,\"sources\":{\"accuracy\":\"measured\",\"accuracy_error\":\"measured\",\"cross_entropy\":\"measured\",\"latency_ms\":\"estimated\",\"macs\":\"measured\",\"params\":\"measured\",\"peak_memory_bytes\":\"estimated\",\"size_bytes\":\"measured\"},\"timings\":{\"compress\":0.07941625000239583,\"distill\":2.109831675999885,\"export\":0.08865390799837769,\"inherit\":0.21920180000233813,\"score\":0.19125027599875466,\"time\":0.000748562000808306},\"weights\":\"a58c48ab7873f4c0f0318a34ffbc77ef4316c49f57162fda19dad7b85f9c6685\"},\"schema\":\"autocompress/evaluation\",\"version\":1}"');
INSERT INTO "study_user_attributes" VALUES(5,1,'rung:0:2','"{\"data\":{\"file\":\"a6303ce797e25cc61bab881ccca49ad06e7bb8b4c1070b8905fbb7010e8eef85\",\"metrics\":{\"accuracy\":1.0,\"accuracy_error\":0.08267972847076846,\"cross_entropy\":0.0,\"latency_ms\":0.10460347969175761,\"macs\":23088,\"params\":1299,\"peak_memory_bytes\":768,\"size_bytes\":2573},\"receipts\":[{\"facts\":{\"epochs\":128.0,\"label_weight\":0.48570353337156225,\"learning_rate\":0.005,\"plateau_at_step\":null,\"steps\":128},\"site\":\"\",\"technique\":\"distill\"},{\"facts\":{\"scales\":{\"0\":[0.007914394,0.00478588,0.007651938,0.008412719]},\"weight_bits\":8},\"site\":\"0\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"3\":[0.004517533,0.006522675,0.007365985,0.010647068]},\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"8\":[0.00945242,0.010463318,0.010727917]},\"weight_bits\":8},\"site\":\"8\",\"technique\":\"quantize\"},{\"facts\":{\"scale\":0.0025990004651248455,\"zero_point\":0},\"site\":\"0:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.010855535976588726,\"zero_point\":0},\"site\":\"3:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.008528729900717735,\"zero_point\":0},\"site\":\"8:input\",\"technique\":\"activation-range\"}],\"rung\":2,\"sources\":{\"accuracy\":\"measured\",\"accuracy_error\":\"measured\",\"cross_entropy\":\"measured\",\"latency_ms\":\"estimated\",\"macs\":\"measured\",\"params\":\"measured\",\"peak_memory_bytes\":\"estimated\",\"size_bytes\":\"measured\"},\"timings\":{\"compress\":0.02187200900152675,\"distill\":7.041684202999022,\"export\":0.038814987001387635,\"score\":0.11539414399885572,\"time\":0.00043261999962851405},\"weights\":\"a2a92d7a99c0ba5081fa1f1f6d1077edc25f97bd6ea47fd8104fa083d46e4408\"},\"schema\":\"autocompress/evaluation\",\"version\":1}"');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'prune:0',0.0,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(2,1,'prune:3',0.0,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(3,1,'bits:0',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(4,1,'bits:3',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(5,1,'bits:8',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(6,1,'act:*',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [8]}}');
INSERT INTO "trial_params" VALUES(7,2,'prune:0',4.8661152526144524355e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(8,2,'prune:3',1.81083035729170727101e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(9,2,'bits:0',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(10,2,'bits:3',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(11,2,'bits:8',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}');
INSERT INTO "trial_params" VALUES(12,2,'act:*',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [8]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"prune:0": 0.0, "prune:3": 0.0, "bits:0": 8, "bits:3": 8, "bits:8": 8, "act:*": 8}');
INSERT INTO "trial_system_attributes" VALUES(2,1,'constraints:size_bytes','-0.08107142857142857');
INSERT INTO "trial_system_attributes" VALUES(3,1,'constraints:latency_ms','-0.9998837739114536');
INSERT INTO "trial_system_attributes" VALUES(4,1,'constraints:macs','-0.976912');
INSERT INTO "trial_system_attributes" VALUES(5,1,'constraints:max_drop','-0.5');
INSERT INTO "trial_system_attributes" VALUES(6,2,'constraints:size_bytes','-0.037142857142857144');
INSERT INTO "trial_system_attributes" VALUES(7,2,'constraints:latency_ms','-0.9999120924955244');
INSERT INTO "trial_system_attributes" VALUES(8,2,'constraints:macs','-0.988432');
INSERT INTO "trial_system_attributes" VALUES(9,2,'constraints:max_drop','-0.5');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'origin','"uniform"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'squeeze','0.0');
INSERT INTO "trial_user_attributes" VALUES(3,1,'setting','{"prune:0": 0.0, "prune:3": 0.0, "bits:0": 8, "bits:3": 8, "bits:8": 8, "act:*": 8}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'candidate','"{\"data\":{\"duplicate_of\":null,\"evaluations\":[{\"file\":\"b43bf2b19dd097bd62dcf4367ef37247c9e0e361b31d7ada75934578f218fc28\",\"metrics\":{\"accuracy\":1.0,\"accuracy_error\":0.08267972847076846,\"cross_entropy\":0.0,\"latency_ms\":0.10460347969175761,\"macs\":23088,\"params\":1299,\"peak_memory_bytes\":768,\"size_bytes\":2573},\"receipts\":[{\"facts\":{\"scales\":{\"0\":[0.006670768,0.004751424,0.00654523,0.007718278]},\"weight_bits\":8},\"site\":\"0\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"3\":[0.004222662,0.004825703,0.005971817,0.008481045]},\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"8\":[0.009685421,0.010808818,0.010147493]},\"weight_bits\":8},\"site\":\"8\",\"technique\":\"quantize\"},{\"facts\":{\"scale\":0.0025990004651248455,\"zero_point\":0},\"site\":\"0:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.010997666046023369,\"zero_point\":0},\"site\":\"3:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.008509318344295025,\"zero_point\":0},\"site\":\"8:input\",\"technique\":\"activation-range\"}],\"rung\":0,\"sources\":{\"accuracy\":\"measured\",\"accuracy_error\":\"measured\",\"cross_entropy\":\"measured\",\"latency_ms\":\"estimated\",\"macs\":\"measured\",\"params\":\"measured\",\"peak_memory_bytes\":\"estimated\",\"size_bytes\":\"measured\"},\"timings\":{\"compress\":0.09545344100115472,\"export\":0.0484844950005936,\"score\":0.09601144699990982,\"time\":0.0005157560008228756},\"weights\":\"\"}],\"least_accuracy\":0.499999999999,\"origin\":\"uniform\",\"plan\":{\"steps\":[{\"args\":{\"activation_bits\":8,\"weight_bits\":8},\"site\":\"0\",\"technique\":\"quantize\"},{\"args\":{\"activation_bits\":8,\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"args\":{\"activation_bits\":8,\"weight_bits\":8},\"site\":\"8\",\"technique\":\"quantize\"}]},\"reason\":\"\",\"status\":\"complete\",\"trial\":0},\"schema\":\"autocompress/candidate\",\"version\":1}"');
INSERT INTO "trial_user_attributes" VALUES(5,2,'squeeze','0.0');
INSERT INTO "trial_user_attributes" VALUES(6,2,'setting','{"prune:0": 0.5, "prune:3": 0.0, "bits:0": 4, "bits:3": 8, "bits:8": 4, "act:*": 8}');
INSERT INTO "trial_user_attributes" VALUES(7,2,'candidate','"{\"data\":{\"duplicate_of\":null,\"evaluations\":[{\"file\":\"b6e16e2edf302997f45627bce36fcec8eeb64a2235883d6875ab38d8f65caab9\",\"metrics\":{\"accuracy\":1.0,\"accuracy_error\":0.08267972847076846,\"cross_entropy\":0.0,\"latency_ms\":0.0791167540280408,\"macs\":11568,\"params\":683,\"peak_memory_bytes\":512,\"size_bytes\":2696},\"receipts\":[{\"facts\":{\"kept\":[3,4,5,6]},\"site\":\"0\",\"technique\":\"prune\"},{\"facts\":{\"scales\":{\"0\":[0.032983478,0.025871022,0.029867636,0.031803932]},\"weight_bits\":4},\"site\":\"0\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"3\":[0.005579273,0.007902492,0.008431378,0.010214143]},\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"facts\":{\"scales\":{\"8\":[0.038131885,0.046502549,0.042193338]},\"weight_bits\":4},\"site\":\"8\",\"technique\":\"quantize\"},{\"facts\":{\"scale\":0.0025990004651248455,\"zero_point\":0},\"site\":\"0:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.01106385700404644,\"zero_point\":0},\"site\":\"3:input\",\"technique\":\"activation-range\"},{\"facts\":{\"scale\":0.008111792616546154,\"zero_point\":0},\"site\":\"8:input\",\"technique\":\"activation-range\"}],\"rung\":0,\"sources\":{\"accuracy\":\"measured\",\"accuracy_error\":\"measured\",\"cross_entropy\":\"measured\",\"latency_ms\":\"estimated\",\"macs\":\"measured\",\"params\":\"measured\",\"peak_memory_bytes\":\"estimated\",\"size_bytes\":\"measured\"},\"timings\":{\"compress\":0.09696707599869114,\"export\":0.062394833999860566,\"score\":0.09574232199884136,\"time\":0.000416038998082513},\"weights\":\"\"}],\"least_accuracy\":0.499999999999,\"origin\":\"RandomSampler\",\"plan\":{\"steps\":[{\"args\":{\"keep\":4},\"site\":\"0\",\"technique\":\"prune\"},{\"args\":{\"activation_bits\":8,\"weight_bits\":4},\"site\":\"0\",\"technique\":\"quantize\"},{\"args\":{\"activation_bits\":8,\"weight_bits\":8},\"site\":\"3\",\"technique\":\"quantize\"},{\"args\":{\"activation_bits\":8,\"weight_bits\":4},\"site\":\"8\",\"technique\":\"quantize\"}]},\"reason\":\"\",\"status\":\"complete\",\"trial\":1},\"schema\":\"autocompress/candidate\",\"version\":1}"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,2573.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,1,2,1.04603479691757608738e-01,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,0,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(5,2,1,2696.0,'FINITE');
INSERT INTO "trial_values" VALUES(6,2,2,0.0791167540280408,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-30 05:14:30.530153','2026-11-30 05:14:31.313213');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-30 05:14:31.414584','2026-11-30 05:14:32.361501');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;