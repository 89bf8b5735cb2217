BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('dc11669786a5');
CREATE TABLE "assessments" (
	assessment_id VARCHAR(50) NOT NULL, 
	trace_id VARCHAR(50) NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	assessment_type VARCHAR(20) NOT NULL, 
	value TEXT NOT NULL, 
	error TEXT, 
	created_timestamp BIGINT NOT NULL, 
	last_updated_timestamp BIGINT NOT NULL, 
	source_type VARCHAR(50) NOT NULL, 
	source_id VARCHAR(250), 
	run_id VARCHAR(32), 
	span_id VARCHAR(50), 
	rationale TEXT, 
	overrides VARCHAR(50), 
	valid BOOLEAN NOT NULL, 
	assessment_metadata TEXT, 
	experiment_id INTEGER, 
	trace_timestamp_ms BIGINT, 
	aggregate_value FLOAT, 
	is_numeric_value BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT assessments_pk PRIMARY KEY (assessment_id), 
	CONSTRAINT fk_assessments_trace_id FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE budget_policies (
	budget_policy_id VARCHAR(36) NOT NULL, 
	budget_unit VARCHAR(32) NOT NULL, 
	budget_amount FLOAT NOT NULL, 
	duration_unit VARCHAR(32) NOT NULL, 
	duration_value INTEGER NOT NULL, 
	target_scope VARCHAR(32) NOT NULL, 
	budget_action VARCHAR(32) NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, target_value VARCHAR(255), 
	CONSTRAINT budget_policies_pk PRIMARY KEY (budget_policy_id)
);
CREATE TABLE "datasets" (
	dataset_uuid VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(500) NOT NULL, 
	digest VARCHAR(36) NOT NULL, 
	dataset_source_type VARCHAR(36) NOT NULL, 
	dataset_source TEXT NOT NULL, 
	dataset_schema TEXT, 
	dataset_profile TEXT, 
	CONSTRAINT dataset_pk PRIMARY KEY (experiment_id, name, digest), 
	CONSTRAINT fk_datasets_experiment_id_experiments FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
INSERT INTO "datasets" VALUES('f2159960c4494192a9eaa4083800f56b',1,'few-digits','6777f111eb75239c69d4769f5c52139c.dir','local','{"uri": "/PROJECT/data/normalized"}',NULL,NULL);
INSERT INTO "datasets" VALUES('da871b3b80bf466ab3a7a1b70fff299f',1,'few-digits','69ba0f6c41332abeb5626e5b9cb407e9.dir','local','{"uri": "/PROJECT/data/normalized"}',NULL,NULL);
CREATE TABLE endpoint_bindings (
	endpoint_id VARCHAR(36) NOT NULL, 
	resource_type VARCHAR(50) NOT NULL, 
	resource_id VARCHAR(255) NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), display_name VARCHAR(255), 
	CONSTRAINT endpoint_bindings_pk PRIMARY KEY (endpoint_id, resource_type, resource_id), 
	CONSTRAINT fk_endpoint_bindings_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE
);
CREATE TABLE endpoint_model_mappings (
	mapping_id VARCHAR(36) NOT NULL, 
	endpoint_id VARCHAR(36) NOT NULL, 
	model_definition_id VARCHAR(36) NOT NULL, 
	weight FLOAT NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, linkage_type VARCHAR(64) DEFAULT 'PRIMARY' NOT NULL, fallback_order INTEGER, 
	CONSTRAINT endpoint_model_mappings_pk PRIMARY KEY (mapping_id), 
	CONSTRAINT fk_endpoint_model_mappings_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE, 
	CONSTRAINT fk_endpoint_model_mappings_model_definition_id FOREIGN KEY(model_definition_id) REFERENCES model_definitions (model_definition_id)
);
CREATE TABLE endpoint_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	endpoint_id VARCHAR(36) NOT NULL, 
	CONSTRAINT endpoint_tag_pk PRIMARY KEY ("key", endpoint_id), 
	CONSTRAINT fk_endpoint_tags_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE
);
CREATE TABLE "endpoints" (
	endpoint_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255), 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	routing_strategy VARCHAR(64), 
	fallback_config_json TEXT, 
	experiment_id INTEGER, 
	usage_tracking BOOLEAN DEFAULT '0' NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT endpoints_pk PRIMARY KEY (endpoint_id), 
	CONSTRAINT fk_endpoints_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE SET NULL, 
	CONSTRAINT uq_endpoints_workspace_name UNIQUE (workspace, name)
);
CREATE TABLE entity_associations (
	association_id VARCHAR(36) NOT NULL, 
	source_type VARCHAR(36) NOT NULL, 
	source_id VARCHAR(36) NOT NULL, 
	destination_type VARCHAR(36) NOT NULL, 
	destination_id VARCHAR(36) NOT NULL, 
	created_time BIGINT, 
	CONSTRAINT entity_associations_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)
);
CREATE TABLE "evaluation_dataset_records" (
	dataset_record_id VARCHAR(36) NOT NULL, 
	dataset_id VARCHAR(36) NOT NULL, 
	inputs JSON NOT NULL, 
	expectations JSON, 
	tags JSON, 
	source JSON, 
	source_id VARCHAR(36), 
	source_type VARCHAR(255), 
	created_time BIGINT, 
	last_update_time BIGINT, 
	created_by VARCHAR(255), 
	last_updated_by VARCHAR(255), 
	input_hash VARCHAR(64) NOT NULL, outputs JSON, 
	CONSTRAINT evaluation_dataset_records_pk PRIMARY KEY (dataset_record_id), 
	CONSTRAINT fk_evaluation_dataset_records_dataset_id FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE, 
	CONSTRAINT unique_dataset_input UNIQUE (dataset_id, input_hash)
);
CREATE TABLE evaluation_dataset_tags (
	dataset_id VARCHAR(36) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT evaluation_dataset_tags_pk PRIMARY KEY (dataset_id, "key"), 
	CONSTRAINT fk_evaluation_dataset_tags_dataset_id FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE
);
CREATE TABLE "evaluation_datasets" (
	dataset_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	schema TEXT, 
	profile TEXT, 
	digest VARCHAR(64), 
	created_time BIGINT, 
	last_update_time BIGINT, 
	created_by VARCHAR(255), 
	last_updated_by VARCHAR(255), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT evaluation_datasets_pk PRIMARY KEY (dataset_id)
);
CREATE TABLE "experiment_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value TEXT, 
	experiment_id INTEGER NOT NULL, 
	CONSTRAINT experiment_tag_pk PRIMARY KEY ("key", experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
INSERT INTO "experiment_tags" VALUES('mlflow.experimentKind','custom_model_development',1);
CREATE TABLE "experiments" (
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	artifact_location VARCHAR(256), 
	lifecycle_stage VARCHAR(32), 
	creation_time BIGINT, 
	last_update_time BIGINT, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT experiment_pk PRIMARY KEY (experiment_id), 
	CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT uq_experiments_workspace_name UNIQUE (workspace, name)
);
INSERT INTO "experiments" VALUES(0,'Default','/PROJECT/mlruns/0','active',1795815837004,1795815837004,'default');
INSERT INTO "experiments" VALUES(1,'few-digits','file:///PROJECT/mlartifacts/few-digits','active',1795815837085,1795815837085,'default');
CREATE TABLE guardrail_configs (
	endpoint_id VARCHAR(36) NOT NULL, 
	guardrail_id VARCHAR(36) NOT NULL, 
	execution_order INTEGER, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT guardrail_configs_pk PRIMARY KEY (endpoint_id, guardrail_id), 
	CONSTRAINT fk_guardrail_configs_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE, 
	CONSTRAINT fk_guardrail_configs_guardrail_id FOREIGN KEY(guardrail_id) REFERENCES guardrails (guardrail_id) ON DELETE CASCADE
);
CREATE TABLE guardrails (
	guardrail_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	scorer_version INTEGER NOT NULL, 
	stage VARCHAR(32) NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	action_endpoint_id VARCHAR(36), 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT guardrails_pk PRIMARY KEY (guardrail_id), 
	CONSTRAINT fk_guardrails_scorer_version FOREIGN KEY(scorer_id, scorer_version) REFERENCES scorer_versions (scorer_id, scorer_version), 
	CONSTRAINT fk_guardrails_action_endpoint_id FOREIGN KEY(action_endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE SET NULL
);
CREATE TABLE input_tags (
	input_uuid VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	value VARCHAR(500) NOT NULL, 
	CONSTRAINT input_tags_pk PRIMARY KEY (input_uuid, name)
);
INSERT INTO "input_tags" VALUES('51b43c96e5454eb68be37697818b6859','mlflow.data.context','training');
INSERT INTO "input_tags" VALUES('d581609201a84060878abbe90d18f7f4','mlflow.data.context','training');
INSERT INTO "input_tags" VALUES('716b412e72c247fe8c7bff31f57a48e2','mlflow.data.context','training');
CREATE TABLE inputs (
	input_uuid VARCHAR(36) NOT NULL, 
	source_type VARCHAR(36) NOT NULL, 
	source_id VARCHAR(36) NOT NULL, 
	destination_type VARCHAR(36) NOT NULL, 
	destination_id VARCHAR(36) NOT NULL, step BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT inputs_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)
);
INSERT INTO "inputs" VALUES('51b43c96e5454eb68be37697818b6859','DATASET','f2159960c4494192a9eaa4083800f56b','RUN','7b09aef1318348b88d84197edc039281',0);
INSERT INTO "inputs" VALUES('23de04c783334ae9aed9cec63c5a56d0','RUN_OUTPUT','7b09aef1318348b88d84197edc039281','MODEL_OUTPUT','m-ccebaa25e1214e209d34a70112dd8086',0);
INSERT INTO "inputs" VALUES('d581609201a84060878abbe90d18f7f4','DATASET','da871b3b80bf466ab3a7a1b70fff299f','RUN','01f8f13b091645c6b95007a621c5a5ad',0);
INSERT INTO "inputs" VALUES('1c78fa25629440dda4e6635b619d525a','RUN_OUTPUT','01f8f13b091645c6b95007a621c5a5ad','MODEL_OUTPUT','m-18667889e2134013a572c3b8b1319dd4',0);
INSERT INTO "inputs" VALUES('716b412e72c247fe8c7bff31f57a48e2','DATASET','da871b3b80bf466ab3a7a1b70fff299f','RUN','cc1717a4151b457388178488064e4be0',0);
CREATE TABLE issues (
	issue_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	description TEXT NOT NULL, 
	status VARCHAR(50) NOT NULL, 
	severity VARCHAR(50), 
	root_causes TEXT, 
	source_run_id VARCHAR(32), 
	categories TEXT, 
	created_timestamp BIGINT NOT NULL, 
	last_updated_timestamp BIGINT NOT NULL, 
	created_by VARCHAR(255), 
	CONSTRAINT issues_pk PRIMARY KEY (issue_id), 
	CONSTRAINT fk_issues_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT fk_issues_source_run_id FOREIGN KEY(source_run_id) REFERENCES runs (run_uuid) ON DELETE SET NULL
);
CREATE TABLE job_locks (
	lock_key VARCHAR(255) NOT NULL, 
	job_id VARCHAR(36) NOT NULL, 
	acquired_at BIGINT NOT NULL, 
	CONSTRAINT job_locks_pk PRIMARY KEY (lock_key), 
	CONSTRAINT fk_job_locks_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE "jobs" (
	id VARCHAR(36) NOT NULL, 
	creation_time BIGINT NOT NULL, 
	job_name VARCHAR(500) NOT NULL, 
	params TEXT NOT NULL, 
	timeout FLOAT, 
	status INTEGER NOT NULL, 
	result TEXT, 
	retry_count INTEGER NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, status_details JSON, creator VARCHAR(255), executor_backend VARCHAR(255), lease_expires_at BIGINT, status_message TEXT, progress JSON, progress_updated_at BIGINT, token_hash VARCHAR(64), scoped_permissions JSON, next_attempt_at BIGINT, 
	CONSTRAINT jobs_pk PRIMARY KEY (id)
);
CREATE TABLE label_schemas (
	schema_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	type VARCHAR(16) NOT NULL, 
	instruction TEXT, 
	enable_comment BOOLEAN DEFAULT '0' NOT NULL, 
	input_type VARCHAR(32) NOT NULL, 
	input_config TEXT NOT NULL, 
	created_by VARCHAR(255), 
	created_time BIGINT NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	is_default BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT label_schemas_pk PRIMARY KEY (schema_id), 
	CONSTRAINT fk_label_schemas_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT uq_label_schemas_exp_name UNIQUE (experiment_id, name)
);
CREATE TABLE "latest_metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT, 
	step BIGINT NOT NULL, 
	is_nan BOOLEAN NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT latest_metric_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "latest_metrics" VALUES('train_loss',3.62158447504043579101e-01,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('train_accuracy',1.0,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('val_loss',3.21875274181365966796e-01,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('val_accuracy',1.0,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('val_error',0.0,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('learning_rate',0.0,1795815838925,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('best_val_loss',3.21875274181365966796e-01,1795815840704,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('best_val_accuracy',1.0,1795815840704,11,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_accuracy',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_loss',3.12263429164886474609e-01,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_recall',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_precision',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_f1',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_auroc',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_ece',1.3624598085880279541e-01,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_ece_uncalibrated',2.68183991312980651855e-01,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_temperature',5.43310556553019408099e-01,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_recall_low',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_recall_high',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_precision_low',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_precision_high',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_f1_low',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_macro_f1_high',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_accuracy_low',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('test_accuracy_high',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('recall_0',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('recall_1',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('precision_0',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('precision_1',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('f1_0',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('f1_1',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('auroc_0',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('auroc_1',1.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('num_test',4.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('label_issues',0.0,1795815859695,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('shift_kept',0.918006088720148,1795815876069,0,0,'7b09aef1318348b88d84197edc039281');
INSERT INTO "latest_metrics" VALUES('train_loss',4.58583027124404907226e-01,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('train_accuracy',0.625,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('val_loss',3.80368977785110473632e-01,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('val_accuracy',1.0,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('val_error',0.0,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('learning_rate',0.0,1795815926960,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('best_val_loss',3.80368977785110473632e-01,1795815928139,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('best_val_accuracy',1.0,1795815928139,11,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_accuracy',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_loss',3.79082769155502319335e-01,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_recall',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_precision',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_f1',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_ece',1.15068614482879638671e-01,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_ece_uncalibrated',3.1513067086537677186e-01,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_temperature',3.75927623328238535993e-01,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_recall_low',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_recall_high',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_precision_low',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_precision_high',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_f1_low',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_macro_f1_high',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_accuracy_low',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('test_accuracy_high',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('recall_1',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('precision_1',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('f1_1',1.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('num_test',3.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('label_issues',0.0,1795815944418,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('shift_kept',9.27634552763798803098e-01,1795815959723,0,0,'01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "latest_metrics" VALUES('train_loss',6.95002496242523193359e-01,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
INSERT INTO "latest_metrics" VALUES('train_accuracy',0.5,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
INSERT INTO "latest_metrics" VALUES('val_loss',7.4647808074951171875e-01,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
INSERT INTO "latest_metrics" VALUES('val_accuracy',2.85714298486709594726e-01,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
INSERT INTO "latest_metrics" VALUES('val_error',7.14285731315612792968e-01,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
INSERT INTO "latest_metrics" VALUES('learning_rate',1.1570247933884298102e-03,1795816268335,2,0,'cc1717a4151b457388178488064e4be0');
CREATE TABLE logged_model_metrics (
	model_id VARCHAR(36) NOT NULL, 
	metric_name VARCHAR(500) NOT NULL, 
	metric_timestamp_ms BIGINT NOT NULL, 
	metric_step BIGINT NOT NULL, 
	metric_value FLOAT, 
	experiment_id INTEGER NOT NULL, 
	run_id VARCHAR(32) NOT NULL, 
	dataset_uuid VARCHAR(36), 
	dataset_name VARCHAR(500), 
	dataset_digest VARCHAR(36), 
	CONSTRAINT logged_model_metrics_pk PRIMARY KEY (model_id, metric_name, metric_timestamp_ms, metric_step, run_id), 
	CONSTRAINT fk_logged_model_metrics_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_metrics_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE, 
	CONSTRAINT fk_logged_model_metrics_run_id FOREIGN KEY(run_id) REFERENCES runs (run_uuid) ON DELETE CASCADE
);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','train_loss',1795815837592,0,8.81938934326171875e-01,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','train_accuracy',1795815837592,0,4.28571432828903198242e-01,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','val_loss',1795815837592,0,6.858386993408203125e-01,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','val_accuracy',1795815837592,0,0.800000011920929,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','val_error',1795815837592,0,2.00000002980232238769e-01,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-ccebaa25e1214e209d34a70112dd8086','learning_rate',1795815837592,0,1.03448275862068946734e-02,1,'7b09aef1318348b88d84197edc039281',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','train_loss',1795815926123,0,7.13361859321594238281e-01,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','train_accuracy',1795815926123,0,0.5,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','val_loss',1795815926123,0,6.66229903697967529296e-01,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','val_accuracy',1795815926123,0,7.14285731315612792968e-01,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','val_error',1795815926123,0,2.85714268684387207031e-01,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
INSERT INTO "logged_model_metrics" VALUES('m-18667889e2134013a572c3b8b1319dd4','learning_rate',1795815926123,0,1.03448275862068946734e-02,1,'01f8f13b091645c6b95007a621c5a5ad',NULL,NULL,NULL);
CREATE TABLE logged_model_params (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	param_key VARCHAR(255) NOT NULL, 
	param_value TEXT NOT NULL, 
	CONSTRAINT logged_model_params_pk PRIMARY KEY (model_id, param_key), 
	CONSTRAINT fk_logged_model_params_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_params_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE
);
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'abstain_below','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'checkpoint_every_min','5.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'data.batch_size','4');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'data.cache','auto');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'data.store','data/normalized');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.backbone_lr','1.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.channels_last','True');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.compile','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.cutmix','0.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.decay_norm_and_bias','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.ema','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.erasing','0.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.flip','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.freeze','none');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.imbalance','none');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.label_smoothing','0.1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.mean_std','auto');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.mixup','0.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.class_path','lightning_modules.networks.ConvNet');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.filters','[4, 8]');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.kernel_size','3');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.stride','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.padding','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.pool','max');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.pool_window','2');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.grid','2');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.hidden','[8]');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.dropout','0.2');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.network.init_args.batch_norm','True');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.class_path','torch.optim.AdamW');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.amsgrad','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.betas','[0.9, 0.999]');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.capturable','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.differentiable','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.eps','1e-08');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.foreach','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.fused','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.lr','0.02');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.maximize','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.optimizer.init_args.weight_decay','0.05');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.rand_augment','0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.schedule','cosine');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.shift','0.1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.strength','0.5');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.warmup','0.2');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'model.weights','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'reference_pictures','1000');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'seed_everything','0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'stop_at_error','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'threads','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.accelerator','cpu');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.accumulate_grad_batches','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.barebones','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.benchmark','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.callbacks','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.check_val_every_n_epoch','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.default_root_dir','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.detect_anomaly','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.deterministic','warn');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.devices','auto');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.enable_autolog_hparams','True');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.enable_checkpointing','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.enable_model_summary','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.enable_progress_bar','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.fast_dev_run','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.gradient_clip_algorithm','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.gradient_clip_val','1.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.inference_mode','True');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.limit_predict_batches','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.limit_test_batches','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.limit_train_batches','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.limit_val_batches','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.log_every_n_steps','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.logger','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.max_epochs','12');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.max_steps','-1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.max_time','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.min_epochs','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.min_steps','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.model_registry','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.num_nodes','1');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.num_sanity_val_steps','0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.overfit_batches','0.0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.plugins','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.precision','32-true');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.profiler','None');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.reload_dataloaders_every_n_epochs','0');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.strategy','auto');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.sync_batchnorm','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.use_distributed_sampler','False');
INSERT INTO "logged_model_params" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'trainer.val_check_interval','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'abstain_below','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'checkpoint_every_min','5.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'data.batch_size','4');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'data.cache','auto');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'data.store','data/normalized');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.backbone_lr','1.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.channels_last','True');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.compile','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.cutmix','0.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.decay_norm_and_bias','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.ema','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.erasing','0.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.flip','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.freeze','none');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.imbalance','none');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.label_smoothing','0.1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.mean_std','auto');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.mixup','0.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.class_path','lightning_modules.networks.ConvNet');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.filters','[4, 8]');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.kernel_size','3');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.stride','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.padding','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.pool','max');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.pool_window','2');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.grid','2');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.hidden','[8]');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.dropout','0.2');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.network.init_args.batch_norm','True');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.class_path','torch.optim.AdamW');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.amsgrad','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.betas','[0.9, 0.999]');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.capturable','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.differentiable','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.eps','1e-08');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.foreach','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.fused','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.lr','0.02');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.maximize','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.optimizer.init_args.weight_decay','0.05');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.rand_augment','0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.schedule','cosine');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.shift','0.1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.strength','0.5');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.warmup','0.2');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'model.weights','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'reference_pictures','1000');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'seed_everything','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'stop_at_error','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'threads','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.accelerator','cpu');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.accumulate_grad_batches','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.barebones','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.benchmark','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.callbacks','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.check_val_every_n_epoch','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.default_root_dir','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.detect_anomaly','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.deterministic','warn');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.devices','auto');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.enable_autolog_hparams','True');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.enable_checkpointing','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.enable_model_summary','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.enable_progress_bar','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.fast_dev_run','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.gradient_clip_algorithm','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.gradient_clip_val','1.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.inference_mode','True');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.limit_predict_batches','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.limit_test_batches','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.limit_train_batches','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.limit_val_batches','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.log_every_n_steps','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.logger','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.max_epochs','12');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.max_steps','-1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.max_time','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.min_epochs','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.min_steps','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.model_registry','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.num_nodes','1');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.num_sanity_val_steps','0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.overfit_batches','0.0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.plugins','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.precision','32-true');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.profiler','None');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.reload_dataloaders_every_n_epochs','0');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.strategy','auto');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.sync_batchnorm','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.use_distributed_sampler','False');
INSERT INTO "logged_model_params" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'trainer.val_check_interval','None');
CREATE TABLE logged_model_tags (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	tag_key VARCHAR(255) NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT logged_model_tags_pk PRIMARY KEY (model_id, tag_key), 
	CONSTRAINT fk_logged_model_tags_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_tags_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE
);
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.user','somebody');
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.source.name','/PROJECT/lightning_modules/__main__.py');
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.source.type','LOCAL');
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.source.git.commit','d5938812ac72c23d101317bde6ff2f1ce969801a');
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.source.git.branch','main');
INSERT INTO "logged_model_tags" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'mlflow.source.git.repoURL','/PROJECT');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.user','somebody');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.source.name','/PROJECT/lightning_modules/__main__.py');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.source.type','LOCAL');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.source.git.commit','d5938812ac72c23d101317bde6ff2f1ce969801a');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.source.git.branch','main');
INSERT INTO "logged_model_tags" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'mlflow.source.git.repoURL','/PROJECT');
CREATE TABLE logged_models (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(500) NOT NULL, 
	artifact_location VARCHAR(1000) NOT NULL, 
	creation_timestamp_ms BIGINT NOT NULL, 
	last_updated_timestamp_ms BIGINT NOT NULL, 
	status INTEGER NOT NULL, 
	lifecycle_stage VARCHAR(32), 
	model_type VARCHAR(500), 
	source_run_id VARCHAR(32), 
	status_message VARCHAR(1000), 
	CONSTRAINT logged_models_pk PRIMARY KEY (model_id), 
	CONSTRAINT logged_models_lifecycle_stage_check CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT fk_logged_models_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
INSERT INTO "logged_models" VALUES('m-ccebaa25e1214e209d34a70112dd8086',1,'classifier','file:///PROJECT/mlartifacts/few-digits/models/m-ccebaa25e1214e209d34a70112dd8086/artifacts',1795815839349,1795815840570,2,'active',NULL,'7b09aef1318348b88d84197edc039281',NULL);
INSERT INTO "logged_models" VALUES('m-18667889e2134013a572c3b8b1319dd4',1,'classifier','file:///PROJECT/mlartifacts/few-digits/models/m-18667889e2134013a572c3b8b1319dd4/artifacts',1795815927163,1795815928110,2,'active',NULL,'01f8f13b091645c6b95007a621c5a5ad',NULL);
CREATE TABLE mcp_access_endpoints (
	id VARCHAR(36) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	server_name VARCHAR(256) NOT NULL, 
	server_version VARCHAR(128), 
	server_alias VARCHAR(256), 
	url VARCHAR(2048) NOT NULL, 
	transport_type VARCHAR(32) DEFAULT 'streamable-http' NOT NULL, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_access_endpoints_pk PRIMARY KEY (id), 
	CONSTRAINT mcp_access_endpoints_server_fkey FOREIGN KEY(workspace, server_name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_aliases (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	alias VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	CONSTRAINT mcp_server_aliases_pk PRIMARY KEY (workspace, name, alias), 
	CONSTRAINT mcp_server_aliases_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_tags (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT mcp_server_tags_pk PRIMARY KEY (workspace, name, "key"), 
	CONSTRAINT mcp_server_tags_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_version_tags (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT mcp_server_version_tags_pk PRIMARY KEY (workspace, name, version, "key"), 
	CONSTRAINT mcp_server_version_tags_version_fkey FOREIGN KEY(workspace, name, version) REFERENCES mcp_server_versions (workspace, name, version) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_versions (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	version_major INTEGER NOT NULL, 
	version_minor INTEGER NOT NULL, 
	version_patch INTEGER NOT NULL, 
	version_prerelease_sort_key VARCHAR(512) NOT NULL, 
	server_json JSON NOT NULL, 
	status VARCHAR(20) DEFAULT 'draft' NOT NULL, 
	tools JSON, 
	source VARCHAR(512), 
	connect_options JSON, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_server_versions_pk PRIMARY KEY (workspace, name, version), 
	CONSTRAINT mcp_server_versions_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_servers (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	display_name VARCHAR(256), 
	description TEXT, 
	icons JSON, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_servers_pk PRIMARY KEY (workspace, name)
);
CREATE TABLE "metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	step BIGINT DEFAULT '0' NOT NULL, 
	is_nan BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "metrics" VALUES('train_loss',8.81938934326171875e-01,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('train_accuracy',4.28571432828903198242e-01,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('val_loss',6.858386993408203125e-01,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('val_accuracy',0.800000011920929,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('val_error',2.00000002980232238769e-01,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('learning_rate',1.03448275862068946734e-02,1795815837592,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('train_loss',6.5632724761962890625e-01,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('val_loss',7.37339019775390625e-01,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.00000002980232238769e-01,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('val_error',0.800000011920929,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('learning_rate',1.72413793103448273469e-02,1795815837775,'7b09aef1318348b88d84197edc039281',1,0);
INSERT INTO "metrics" VALUES('train_loss',5.97167551517486572265e-01,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('val_loss',7.92344748973846435546e-01,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.00000002980232238769e-01,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('val_error',0.800000011920929,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('learning_rate',1.98078528040323033343e-02,1795815837860,'7b09aef1318348b88d84197edc039281',2,0);
INSERT INTO "metrics" VALUES('train_loss',6.50546908378601074218e-01,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('val_loss',8.17426383495330810546e-01,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.00000002980232238769e-01,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('val_error',0.800000011920929,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('learning_rate',1.86602540378443884638e-02,1795815837976,'7b09aef1318348b88d84197edc039281',3,0);
INSERT INTO "metrics" VALUES('train_loss',6.14177286624908447265e-01,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('val_loss',8.01203072071075439453e-01,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.00000002980232238769e-01,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('val_error',0.800000011920929,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('learning_rate',1.65934581510006895488e-02,1795815838081,'7b09aef1318348b88d84197edc039281',4,0);
INSERT INTO "metrics" VALUES('train_loss',5.30228734016418457031e-01,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('train_accuracy',7.14285731315612792968e-01,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('val_loss',6.78700983524322509765e-01,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.00000002980232238769e-01,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('val_error',0.800000011920929,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('learning_rate',1.38268343236509008709e-02,1795815838185,'7b09aef1318348b88d84197edc039281',5,0);
INSERT INTO "metrics" VALUES('train_loss',6.24620556831359863281e-01,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('train_accuracy',7.14285731315612792968e-01,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('val_loss',4.71066296100616455078e-01,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('learning_rate',1.06540312923014343637e-02,1795815838294,'7b09aef1318348b88d84197edc039281',6,0);
INSERT INTO "metrics" VALUES('train_loss',5.15841364860534667968e-01,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('val_loss',3.9150479435920715332e-01,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('learning_rate',7.41180954897479194604e-03,1795815838420,'7b09aef1318348b88d84197edc039281',7,0);
INSERT INTO "metrics" VALUES('train_loss',4.12793487310409545898e-01,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('train_accuracy',1.0,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('val_loss',3.71335923671722412109e-01,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('learning_rate',4.44429766980397687042e-03,1795815838552,'7b09aef1318348b88d84197edc039281',8,0);
INSERT INTO "metrics" VALUES('train_loss',4.45154815912246704101e-01,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('train_accuracy',8.57142865657806396484e-01,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('val_loss',3.49134862422943115234e-01,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('learning_rate',2.06646659708764742977e-03,1795815838670,'7b09aef1318348b88d84197edc039281',9,0);
INSERT INTO "metrics" VALUES('train_loss',6.47135555744171142578e-01,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('train_accuracy',5.71428596973419189453e-01,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('val_loss',3.33582043647766113281e-01,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('learning_rate',5.30698705048944269387e-04,1795815838799,'7b09aef1318348b88d84197edc039281',10,0);
INSERT INTO "metrics" VALUES('train_loss',3.62158447504043579101e-01,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('train_accuracy',1.0,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('val_loss',3.21875274181365966796e-01,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('learning_rate',0.0,1795815838925,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('best_val_loss',3.21875274181365966796e-01,1795815840704,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('best_val_accuracy',1.0,1795815840704,'7b09aef1318348b88d84197edc039281',11,0);
INSERT INTO "metrics" VALUES('test_accuracy',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_loss',3.12263429164886474609e-01,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_auroc',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_ece',1.3624598085880279541e-01,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_ece_uncalibrated',2.68183991312980651855e-01,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_temperature',5.43310556553019408099e-01,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall_low',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall_high',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision_low',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision_high',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1_low',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1_high',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_accuracy_low',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('test_accuracy_high',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('recall_0',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('recall_1',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('precision_0',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('precision_1',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('f1_0',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('f1_1',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('auroc_0',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('auroc_1',1.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('num_test',4.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('label_issues',0.0,1795815859695,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('shift_kept',0.918006088720148,1795815876069,'7b09aef1318348b88d84197edc039281',0,0);
INSERT INTO "metrics" VALUES('train_loss',7.13361859321594238281e-01,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('val_loss',6.66229903697967529296e-01,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('val_accuracy',7.14285731315612792968e-01,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('val_error',2.85714268684387207031e-01,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('learning_rate',1.03448275862068946734e-02,1795815926123,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('train_loss',6.64864301681518554687e-01,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('val_loss',0.653498113155365,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('val_accuracy',7.14285731315612792968e-01,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('val_error',2.85714268684387207031e-01,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('learning_rate',1.72413793103448273469e-02,1795815926265,'01f8f13b091645c6b95007a621c5a5ad',1,0);
INSERT INTO "metrics" VALUES('train_loss',7.15756714344024658203e-01,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('val_loss',6.41610980033874511718e-01,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('val_accuracy',7.14285731315612792968e-01,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('val_error',2.85714268684387207031e-01,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('learning_rate',1.98078528040323033343e-02,1795815926360,'01f8f13b091645c6b95007a621c5a5ad',2,0);
INSERT INTO "metrics" VALUES('train_loss',6.58476948738098144531e-01,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.75,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('val_loss',6.41525566577911376953e-01,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('learning_rate',1.86602540378443884638e-02,1795815926433,'01f8f13b091645c6b95007a621c5a5ad',3,0);
INSERT INTO "metrics" VALUES('train_loss',5.85625350475311279296e-01,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.75,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('val_loss',0.617049515247345,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('learning_rate',1.65934581510006895488e-02,1795815926505,'01f8f13b091645c6b95007a621c5a5ad',4,0);
INSERT INTO "metrics" VALUES('train_loss',5.46623826026916503906e-01,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('train_accuracy',1.0,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('val_loss',5.61406910419464111328e-01,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('learning_rate',1.38268343236509008709e-02,1795815926569,'01f8f13b091645c6b95007a621c5a5ad',5,0);
INSERT INTO "metrics" VALUES('train_loss',4.76765155792236328125e-01,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.875,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('val_loss',5.28584420680999755859e-01,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('learning_rate',1.06540312923014343637e-02,1795815926635,'01f8f13b091645c6b95007a621c5a5ad',6,0);
INSERT INTO "metrics" VALUES('train_loss',4.96581256389617919921e-01,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.625,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('val_loss',4.9307212233543395996e-01,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('learning_rate',7.41180954897479194604e-03,1795815926704,'01f8f13b091645c6b95007a621c5a5ad',7,0);
INSERT INTO "metrics" VALUES('train_loss',4.53496873378753662109e-01,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.875,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('val_loss',4.54885154962539672851e-01,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('learning_rate',4.44429766980397687042e-03,1795815926776,'01f8f13b091645c6b95007a621c5a5ad',8,0);
INSERT INTO "metrics" VALUES('train_loss',3.16829442977905273437e-01,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.875,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('val_loss',4.18846845626831054687e-01,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('learning_rate',2.06646659708764742977e-03,1795815926839,'01f8f13b091645c6b95007a621c5a5ad',9,0);
INSERT INTO "metrics" VALUES('train_loss',2.70852684974670410156e-01,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('train_accuracy',1.0,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('val_loss',3.96551817655563354492e-01,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('learning_rate',5.30698705048944269387e-04,1795815926906,'01f8f13b091645c6b95007a621c5a5ad',10,0);
INSERT INTO "metrics" VALUES('train_loss',4.58583027124404907226e-01,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.625,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('val_loss',3.80368977785110473632e-01,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('val_accuracy',1.0,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('val_error',0.0,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('learning_rate',0.0,1795815926960,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('best_val_loss',3.80368977785110473632e-01,1795815928139,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('best_val_accuracy',1.0,1795815928139,'01f8f13b091645c6b95007a621c5a5ad',11,0);
INSERT INTO "metrics" VALUES('test_accuracy',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_loss',3.79082769155502319335e-01,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_ece',1.15068614482879638671e-01,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_ece_uncalibrated',3.1513067086537677186e-01,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_temperature',3.75927623328238535993e-01,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall_low',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_recall_high',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision_low',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_precision_high',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1_low',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_macro_f1_high',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_accuracy_low',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('test_accuracy_high',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('recall_1',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('precision_1',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('f1_1',1.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('num_test',3.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('label_issues',0.0,1795815944418,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('shift_kept',9.27634552763798803098e-01,1795815959723,'01f8f13b091645c6b95007a621c5a5ad',0,0);
INSERT INTO "metrics" VALUES('train_loss',7.055492401123046875e-01,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('val_loss',7.50526607036590576171e-01,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.85714298486709594726e-01,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('val_error',7.14285731315612792968e-01,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('learning_rate',4.9586776859504133174e-04,1795816268016,'cc1717a4151b457388178488064e4be0',0,0);
INSERT INTO "metrics" VALUES('train_loss',6.9423675537109375e-01,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('val_loss',7.48031020164489746093e-01,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.85714298486709594726e-01,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('val_error',7.14285731315612792968e-01,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('learning_rate',8.2644628099173562518e-04,1795816268267,'cc1717a4151b457388178488064e4be0',1,0);
INSERT INTO "metrics" VALUES('train_loss',6.95002496242523193359e-01,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
INSERT INTO "metrics" VALUES('train_accuracy',0.5,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
INSERT INTO "metrics" VALUES('val_loss',7.4647808074951171875e-01,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
INSERT INTO "metrics" VALUES('val_accuracy',2.85714298486709594726e-01,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
INSERT INTO "metrics" VALUES('val_error',7.14285731315612792968e-01,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
INSERT INTO "metrics" VALUES('learning_rate',1.1570247933884298102e-03,1795816268335,'cc1717a4151b457388178488064e4be0',2,0);
CREATE TABLE "model_definitions" (
	model_definition_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	secret_id VARCHAR(36), 
	provider VARCHAR(64) NOT NULL, 
	model_name VARCHAR(256) NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_definitions_pk PRIMARY KEY (model_definition_id), 
	CONSTRAINT fk_model_definitions_secret_id FOREIGN KEY(secret_id) REFERENCES secrets (secret_id) ON DELETE SET NULL, 
	CONSTRAINT uq_model_definitions_workspace_name UNIQUE (workspace, name)
);
CREATE TABLE "model_version_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value TEXT, 
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_version_tag_pk PRIMARY KEY (workspace, "key", name, version), 
	CONSTRAINT fk_model_version_tags_model_versions FOREIGN KEY(workspace, name, version) REFERENCES model_versions (workspace, name, version) ON UPDATE CASCADE
);
INSERT INTO "model_version_tags" VALUES('convoy.question','[null, "a0712808c9cac998856bb246a30437130fb56ee5748d1c3de3672c9d50abc46b", {"confidence": 0.95, "max_class_drop": 0.05, "max_ece_rise": 0.05, "max_slowdown": 3.0, "metric": "accuracy", "min_gain": 0.0, "resamples": 200}]','few-digits',1,'default');
INSERT INTO "model_version_tags" VALUES('convoy.decision','the first model of few-digits','few-digits',1,'default');
INSERT INTO "model_version_tags" VALUES('convoy.accuracy','1','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.compared_accuracy','1','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.gain','0','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.gain_low','0','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.gain_high','0','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.num_test','3','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.calibration_error','0.115069','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.compared_calibration_error','0.134041','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.ms','0.449159','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.compared_ms','0.440359','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.num_leaks','0','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.compared_with_version','1','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.question','[1, "489bdbb69bd54fe674a485ff692064faa39647e3079504d8ad31c3f51667669a", {"confidence": 0.95, "max_class_drop": 0.05, "max_ece_rise": 0.05, "max_slowdown": 3.0, "metric": "accuracy", "min_gain": 0.0, "resamples": 200}]','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.decision','a person looked at it (by hand; the comparison: accuracy 1.0000 against 1.0000: gain +0.0000, 95% interval +0.0000 to +0.0000, not above 0 (version 1, the same 3 pictures))','few-digits',2,'default');
INSERT INTO "model_version_tags" VALUES('convoy.rolled_back','2026-11-27T21:47:08Z by somebody@old-machine: complaints about sevens','few-digits',2,'default');
CREATE TABLE "model_versions" (
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	user_id VARCHAR(256), 
	current_stage VARCHAR(20), 
	source VARCHAR(500), 
	run_id VARCHAR(32), 
	status VARCHAR(20), 
	status_message VARCHAR(500), 
	run_link VARCHAR(500), 
	storage_location VARCHAR(500), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_version_pk PRIMARY KEY (workspace, name, version), 
	CONSTRAINT fk_model_versions_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON UPDATE CASCADE
);
INSERT INTO "model_versions" VALUES('few-digits',1,1795815892854,1795815892854,NULL,NULL,'None','file:///PROJECT/mlartifacts/few-digits/models/m-ccebaa25e1214e209d34a70112dd8086/artifacts','7b09aef1318348b88d84197edc039281','READY',NULL,NULL,'file:///PROJECT/mlartifacts/few-digits/models/m-ccebaa25e1214e209d34a70112dd8086/artifacts','default');
INSERT INTO "model_versions" VALUES('few-digits',2,1795815977261,1795815977261,NULL,NULL,'None','file:///PROJECT/mlartifacts/few-digits/models/m-18667889e2134013a572c3b8b1319dd4/artifacts','01f8f13b091645c6b95007a621c5a5ad','READY',NULL,NULL,'file:///PROJECT/mlartifacts/few-digits/models/m-18667889e2134013a572c3b8b1319dd4/artifacts','default');
CREATE TABLE online_scoring_configs (
	online_scoring_config_id VARCHAR(36) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	sample_rate FLOAT NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	filter_string TEXT, 
	CONSTRAINT online_scoring_config_pk PRIMARY KEY (online_scoring_config_id), 
	CONSTRAINT fk_online_scoring_configs_scorer_id FOREIGN KEY(scorer_id) REFERENCES scorers (scorer_id) ON DELETE CASCADE, 
	CONSTRAINT fk_online_scoring_configs_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "params" VALUES('abstain_below','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('checkpoint_every_min','5.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('data.batch_size','4','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('data.cache','auto','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('data.store','data/normalized','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.backbone_lr','1.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.channels_last','True','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.compile','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.cutmix','0.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.decay_norm_and_bias','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.ema','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.erasing','0.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.flip','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.freeze','none','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.imbalance','none','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.label_smoothing','0.1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.mean_std','auto','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.mixup','0.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.class_path','lightning_modules.networks.ConvNet','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.filters','[4, 8]','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.kernel_size','3','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.stride','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.padding','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.pool','max','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.pool_window','2','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.grid','2','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.hidden','[8]','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.dropout','0.2','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.network.init_args.batch_norm','True','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.class_path','torch.optim.AdamW','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.amsgrad','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.betas','[0.9, 0.999]','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.capturable','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.differentiable','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.eps','1e-08','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.foreach','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.fused','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.lr','0.02','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.maximize','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.optimizer.init_args.weight_decay','0.05','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.rand_augment','0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.schedule','cosine','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.shift','0.1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.strength','0.5','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.warmup','0.2','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('model.weights','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('reference_pictures','1000','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('seed_everything','0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('stop_at_error','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('threads','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.accelerator','cpu','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.accumulate_grad_batches','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.barebones','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.benchmark','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.callbacks','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.check_val_every_n_epoch','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.default_root_dir','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.detect_anomaly','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.deterministic','warn','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.devices','auto','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.enable_autolog_hparams','True','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.enable_checkpointing','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.enable_model_summary','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.enable_progress_bar','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.fast_dev_run','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.gradient_clip_algorithm','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.gradient_clip_val','1.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.inference_mode','True','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.limit_predict_batches','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.limit_test_batches','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.limit_train_batches','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.limit_val_batches','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.log_every_n_steps','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.logger','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.max_epochs','12','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.max_steps','-1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.max_time','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.min_epochs','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.min_steps','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.model_registry','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.num_nodes','1','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.num_sanity_val_steps','0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.overfit_batches','0.0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.plugins','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.precision','32-true','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.profiler','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.reload_dataloaders_every_n_epochs','0','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.strategy','auto','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.sync_batchnorm','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.use_distributed_sampler','False','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('trainer.val_check_interval','None','7b09aef1318348b88d84197edc039281');
INSERT INTO "params" VALUES('abstain_below','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('checkpoint_every_min','5.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('data.batch_size','4','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('data.cache','auto','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('data.store','data/normalized','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.backbone_lr','1.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.channels_last','True','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.compile','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.cutmix','0.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.decay_norm_and_bias','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.ema','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.erasing','0.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.flip','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.freeze','none','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.imbalance','none','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.label_smoothing','0.1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.mean_std','auto','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.mixup','0.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.class_path','lightning_modules.networks.ConvNet','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.filters','[4, 8]','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.kernel_size','3','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.stride','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.padding','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.pool','max','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.pool_window','2','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.grid','2','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.hidden','[8]','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.dropout','0.2','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.network.init_args.batch_norm','True','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.class_path','torch.optim.AdamW','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.amsgrad','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.betas','[0.9, 0.999]','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.capturable','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.differentiable','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.eps','1e-08','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.foreach','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.fused','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.lr','0.02','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.maximize','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.optimizer.init_args.weight_decay','0.05','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.rand_augment','0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.schedule','cosine','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.shift','0.1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.strength','0.5','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.warmup','0.2','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('model.weights','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('reference_pictures','1000','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('seed_everything','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('stop_at_error','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('threads','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.accelerator','cpu','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.accumulate_grad_batches','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.barebones','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.benchmark','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.callbacks','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.check_val_every_n_epoch','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.default_root_dir','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.detect_anomaly','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.deterministic','warn','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.devices','auto','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.enable_autolog_hparams','True','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.enable_checkpointing','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.enable_model_summary','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.enable_progress_bar','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.fast_dev_run','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.gradient_clip_algorithm','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.gradient_clip_val','1.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.inference_mode','True','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.limit_predict_batches','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.limit_test_batches','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.limit_train_batches','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.limit_val_batches','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.log_every_n_steps','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.logger','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.max_epochs','12','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.max_steps','-1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.max_time','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.min_epochs','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.min_steps','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.model_registry','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.num_nodes','1','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.num_sanity_val_steps','0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.overfit_batches','0.0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.plugins','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.precision','32-true','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.profiler','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.reload_dataloaders_every_n_epochs','0','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.strategy','auto','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.sync_batchnorm','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.use_distributed_sampler','False','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('trainer.val_check_interval','None','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "params" VALUES('abstain_below','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('checkpoint_every_min','5.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('data.batch_size','4','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('data.cache','auto','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('data.store','data/normalized','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.backbone_lr','1.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.channels_last','True','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.compile','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.cutmix','0.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.decay_norm_and_bias','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.ema','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.erasing','0.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.flip','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.freeze','none','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.imbalance','none','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.label_smoothing','0.1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.mean_std','auto','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.mixup','0.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.class_path','lightning_modules.networks.ConvNet','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.filters','[4, 8]','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.kernel_size','3','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.stride','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.padding','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.pool','max','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.pool_window','2','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.grid','2','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.hidden','[8]','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.dropout','0.2','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.network.init_args.batch_norm','True','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.class_path','torch.optim.AdamW','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.amsgrad','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.betas','[0.9, 0.999]','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.capturable','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.differentiable','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.eps','1e-08','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.foreach','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.fused','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.lr','0.02','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.maximize','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.optimizer.init_args.weight_decay','0.05','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.rand_augment','0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.schedule','cosine','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.shift','0.1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.strength','0.5','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.warmup','0.2','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('model.weights','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('reference_pictures','1000','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('seed_everything','3','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('stop_at_error','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('threads','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.accelerator','cpu','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.accumulate_grad_batches','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.barebones','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.benchmark','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.callbacks','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.check_val_every_n_epoch','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.default_root_dir','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.detect_anomaly','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.deterministic','warn','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.devices','auto','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.enable_autolog_hparams','True','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.enable_checkpointing','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.enable_model_summary','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.enable_progress_bar','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.fast_dev_run','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.gradient_clip_algorithm','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.gradient_clip_val','1.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.inference_mode','True','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.limit_predict_batches','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.limit_test_batches','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.limit_train_batches','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.limit_val_batches','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.log_every_n_steps','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.logger','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.max_epochs','300','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.max_steps','-1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.max_time','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.min_epochs','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.min_steps','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.model_registry','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.num_nodes','1','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.num_sanity_val_steps','0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.overfit_batches','0.0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.plugins','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.precision','32-true','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.profiler','None','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.reload_dataloaders_every_n_epochs','0','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.strategy','auto','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.sync_batchnorm','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.use_distributed_sampler','False','cc1717a4151b457388178488064e4be0');
INSERT INTO "params" VALUES('trainer.val_check_interval','None','cc1717a4151b457388178488064e4be0');
CREATE TABLE "registered_model_aliases" (
	alias VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_alias_pk PRIMARY KEY (workspace, name, alias), 
	CONSTRAINT fk_registered_model_aliases_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "registered_model_aliases" VALUES('champion',1,'few-digits','default');
CREATE TABLE "registered_model_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_tag_pk PRIMARY KEY (workspace, "key", name), 
	CONSTRAINT fk_registered_model_tags_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON UPDATE CASCADE
);
CREATE TABLE "registered_models" (
	name VARCHAR(256) NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_pk PRIMARY KEY (workspace, name)
);
INSERT INTO "registered_models" VALUES('few-digits',1795815892803,1795815977261,NULL,'default');
CREATE TABLE review_queue_items (
	queue_id VARCHAR(36) NOT NULL, 
	item_type VARCHAR(16) NOT NULL, 
	item_id VARCHAR(50) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	completed_by VARCHAR(250), 
	completed_time_ms BIGINT, 
	creation_time_ms BIGINT NOT NULL, 
	last_update_time_ms BIGINT NOT NULL, 
	CONSTRAINT review_queue_items_pk PRIMARY KEY (queue_id, item_id), 
	CONSTRAINT fk_review_queue_items_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queue_label_schemas (
	queue_id VARCHAR(36) NOT NULL, 
	schema_id VARCHAR(36) NOT NULL, 
	CONSTRAINT review_queue_label_schemas_pk PRIMARY KEY (queue_id, schema_id), 
	CONSTRAINT fk_review_queue_label_schemas_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queue_users (
	queue_id VARCHAR(36) NOT NULL, 
	user_id VARCHAR(250) NOT NULL, 
	CONSTRAINT review_queue_users_pk PRIMARY KEY (queue_id, user_id), 
	CONSTRAINT fk_review_queue_users_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queues (
	queue_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	queue_type VARCHAR(16) NOT NULL, 
	created_by VARCHAR(255), 
	creation_time_ms BIGINT NOT NULL, 
	last_update_time_ms BIGINT NOT NULL, 
	name_key VARCHAR(250) NOT NULL, 
	CONSTRAINT review_queues_pk PRIMARY KEY (queue_id), 
	CONSTRAINT fk_review_queues_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT uq_review_queues_experiment_name_key UNIQUE (experiment_id, name_key)
);
CREATE TABLE "runs" (
	run_uuid VARCHAR(32) NOT NULL, 
	name VARCHAR(250), 
	source_type VARCHAR(20), 
	source_name VARCHAR(500), 
	entry_point_name VARCHAR(50), 
	user_id VARCHAR(256), 
	status VARCHAR(9), 
	start_time BIGINT, 
	end_time BIGINT, 
	source_version VARCHAR(50), 
	lifecycle_stage VARCHAR(20), 
	artifact_uri VARCHAR(200), 
	experiment_id INTEGER, deleted_time BIGINT, 
	CONSTRAINT run_pk PRIMARY KEY (run_uuid), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO "runs" VALUES('7b09aef1318348b88d84197edc039281','ConvNet 2026-11-27 21:43:47','UNKNOWN','','','somebody','FINISHED',1795815837246,1795815840750,'','active','file:///PROJECT/mlartifacts/few-digits/7b09aef1318348b88d84197edc039281/artifacts',1,NULL);
INSERT INTO "runs" VALUES('01f8f13b091645c6b95007a621c5a5ad','ConvNet 2026-11-27 21:45:22','UNKNOWN','','','somebody','FINISHED',1795815925901,1795815928150,'','active','file:///PROJECT/mlartifacts/few-digits/01f8f13b091645c6b95007a621c5a5ad/artifacts',1,NULL);
INSERT INTO "runs" VALUES('cc1717a4151b457388178488064e4be0','ConvNet 2026-11-27 21:51:01','UNKNOWN','','','somebody','RUNNING',1795816267264,NULL,'','active','file:///PROJECT/mlartifacts/few-digits/cc1717a4151b457388178488064e4be0/artifacts',1,NULL);
CREATE TABLE scheduler_leases (
	lease_key VARCHAR(255) NOT NULL, 
	acquired_at BIGINT NOT NULL, 
	ttl_seconds INTEGER NOT NULL, 
	CONSTRAINT scheduler_leases_pk PRIMARY KEY (lease_key)
);
CREATE TABLE scorer_versions (
	scorer_id VARCHAR(36) NOT NULL, 
	scorer_version INTEGER NOT NULL, 
	serialized_scorer TEXT NOT NULL, 
	creation_time BIGINT, 
	CONSTRAINT scorer_version_pk PRIMARY KEY (scorer_id, scorer_version), 
	CONSTRAINT fk_scorer_versions_scorer_id FOREIGN KEY(scorer_id) REFERENCES scorers (scorer_id) ON DELETE CASCADE
);
CREATE TABLE scorers (
	experiment_id INTEGER NOT NULL, 
	scorer_name VARCHAR(256) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	CONSTRAINT scorer_pk PRIMARY KEY (scorer_id), 
	CONSTRAINT fk_scorers_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE "secrets" (
	secret_id VARCHAR(36) NOT NULL, 
	secret_name VARCHAR(255) NOT NULL, 
	encrypted_value BLOB NOT NULL, 
	wrapped_dek BLOB NOT NULL, 
	kek_version INTEGER NOT NULL, 
	masked_value VARCHAR(500) NOT NULL, 
	provider VARCHAR(64), 
	auth_config TEXT, 
	description TEXT, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT secrets_pk PRIMARY KEY (secret_id), 
	CONSTRAINT uq_secrets_workspace_secret_name UNIQUE (workspace, secret_name)
);
CREATE TABLE span_metrics (
	trace_id VARCHAR(50) NOT NULL, 
	span_id VARCHAR(50) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT, 
	CONSTRAINT span_metrics_pk PRIMARY KEY (trace_id, span_id, "key"), 
	CONSTRAINT fk_span_metrics_span FOREIGN KEY(trace_id, span_id) REFERENCES spans (trace_id, span_id) ON DELETE CASCADE
);
CREATE TABLE "spans" (
	trace_id VARCHAR(50) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	span_id VARCHAR(50) NOT NULL, 
	parent_span_id VARCHAR(50), 
	name TEXT, 
	type VARCHAR(500), 
	status VARCHAR(50) NOT NULL, 
	start_time_unix_nano BIGINT NOT NULL, 
	end_time_unix_nano BIGINT, 
	duration_ns BIGINT GENERATED ALWAYS AS (end_time_unix_nano - start_time_unix_nano) STORED, 
	content TEXT NOT NULL, 
	input_cost FLOAT, 
	output_cost FLOAT, 
	total_cost FLOAT, 
	model_name VARCHAR(500), 
	model_provider VARCHAR(500), 
	CONSTRAINT spans_pk PRIMARY KEY (trace_id, span_id), 
	CONSTRAINT fk_spans_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_spans_trace_id FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE sql_assessment_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	CONSTRAINT sql_assessment_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_span_cost_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	model_name VARCHAR(500), 
	model_provider VARCHAR(500), 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	CONSTRAINT sql_span_cost_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_trace_metric_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	trace_status VARCHAR(50), 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	p50_value FLOAT, 
	p90_value FLOAT, 
	p99_value FLOAT, 
	CONSTRAINT sql_trace_metric_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_trace_rollup_rebuild_queue (
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	rollup_family VARCHAR(50) NOT NULL, 
	CONSTRAINT sql_trace_rollup_rebuild_queue_pk PRIMARY KEY (experiment_id, rollup_day, rollup_family)
);
CREATE TABLE "tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "tags" VALUES('mlflow.user','somebody','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.source.name','/PROJECT/lightning_modules/__main__.py','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.source.type','LOCAL','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','d5938812ac72c23d101317bde6ff2f1ce969801a','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.source.git.branch','main','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.source.git.repoURL','/PROJECT','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('convoy.dataset','few-digits','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('convoy.fingerprint','a0712808c9cac998856bb246a30437130fb56ee5748d1c3de3672c9d50abc46b','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('convoy.git_commit','d5938812ac72c23d101317bde6ff2f1ce969801a','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.runName','ConvNet 2026-11-27 21:43:47','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('convoy.model','m-ccebaa25e1214e209d34a70112dd8086','7b09aef1318348b88d84197edc039281');
INSERT INTO "tags" VALUES('mlflow.user','somebody','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.source.name','/PROJECT/lightning_modules/__main__.py','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.source.type','LOCAL','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','d5938812ac72c23d101317bde6ff2f1ce969801a','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.source.git.branch','main','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.source.git.repoURL','/PROJECT','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('convoy.dataset','few-digits','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('convoy.fingerprint','489bdbb69bd54fe674a485ff692064faa39647e3079504d8ad31c3f51667669a','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('convoy.git_commit','d5938812ac72c23d101317bde6ff2f1ce969801a','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.runName','ConvNet 2026-11-27 21:45:22','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('convoy.model','m-18667889e2134013a572c3b8b1319dd4','01f8f13b091645c6b95007a621c5a5ad');
INSERT INTO "tags" VALUES('mlflow.user','somebody','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.source.name','/PROJECT/lightning_modules/__main__.py','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.source.type','LOCAL','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','d5938812ac72c23d101317bde6ff2f1ce969801a','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.source.git.branch','main','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.source.git.repoURL','/PROJECT','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('convoy.dataset','few-digits','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('convoy.fingerprint','489bdbb69bd54fe674a485ff692064faa39647e3079504d8ad31c3f51667669a','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('convoy.git_commit','d5938812ac72c23d101317bde6ff2f1ce969801a','cc1717a4151b457388178488064e4be0');
INSERT INTO "tags" VALUES('mlflow.runName','ConvNet 2026-11-27 21:51:01','cc1717a4151b457388178488064e4be0');
CREATE TABLE "trace_info" (
	request_id VARCHAR(50) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	timestamp_ms BIGINT NOT NULL, 
	execution_time_ms BIGINT, 
	status VARCHAR(50) NOT NULL, 
	client_request_id VARCHAR(50), 
	request_preview VARCHAR(1000), 
	response_preview VARCHAR(1000), 
	db_payload_generation INTEGER DEFAULT '0' NOT NULL, trace_name VARCHAR(4096), session_id VARCHAR(250), input_tokens BIGINT, output_tokens BIGINT, total_tokens BIGINT, cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT, cache_creation_input_tokens_above_1hr BIGINT, input_cost FLOAT, output_cost FLOAT, total_cost FLOAT, 
	CONSTRAINT trace_info_pk PRIMARY KEY (request_id), 
	CONSTRAINT fk_trace_info_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE trace_metrics (
	request_id VARCHAR(50) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT, 
	CONSTRAINT trace_metrics_pk PRIMARY KEY (request_id, "key"), 
	CONSTRAINT fk_trace_metrics_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE "trace_request_metadata" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_request_metadata_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_request_metadata_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE "trace_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_tag_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_tags_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE webhook_events (
	webhook_id VARCHAR(256) NOT NULL, 
	entity VARCHAR(50) NOT NULL, 
	action VARCHAR(50) NOT NULL, 
	CONSTRAINT webhook_event_pk PRIMARY KEY (webhook_id, entity, action), 
	FOREIGN KEY(webhook_id) REFERENCES webhooks (webhook_id) ON DELETE cascade
);
CREATE TABLE "webhooks" (
	webhook_id VARCHAR(256) NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	description VARCHAR(1000), 
	url VARCHAR(500) NOT NULL, 
	status VARCHAR(20) DEFAULT 'ACTIVE' NOT NULL, 
	secret VARCHAR(1000), 
	creation_timestamp BIGINT, 
	last_updated_timestamp BIGINT, 
	deleted_timestamp BIGINT, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT webhook_pk PRIMARY KEY (webhook_id)
);
CREATE TABLE workspaces (
	name VARCHAR(63) NOT NULL, 
	description TEXT, 
	default_artifact_root TEXT, trace_archival_location TEXT, trace_archival_retention VARCHAR(32), 
	CONSTRAINT workspaces_pk PRIMARY KEY (name)
);
INSERT INTO "workspaces" VALUES('default','Default workspace for legacy resources',NULL,NULL,NULL);
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);
CREATE INDEX index_inputs_destination_type_destination_id_source_type ON inputs (destination_type, destination_id, source_type);
CREATE INDEX index_inputs_input_uuid ON inputs (input_uuid);
CREATE INDEX index_params_run_uuid ON params (run_uuid);
CREATE INDEX index_trace_tags_request_id ON trace_tags (request_id);
CREATE INDEX index_trace_request_metadata_request_id ON trace_request_metadata (request_id);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
CREATE INDEX index_datasets_experiment_id_dataset_source_type ON datasets (experiment_id, dataset_source_type);
CREATE INDEX index_datasets_dataset_uuid ON datasets (dataset_uuid);
CREATE INDEX index_logged_model_metrics_model_id ON logged_model_metrics (model_id);
CREATE INDEX index_entity_associations_association_id ON entity_associations (association_id);
CREATE INDEX index_entity_associations_reverse_lookup ON entity_associations (destination_type, destination_id, source_type, source_id);
CREATE INDEX idx_webhook_events_entity ON webhook_events (entity);
CREATE INDEX idx_webhook_events_action ON webhook_events (action);
CREATE INDEX idx_webhook_events_entity_action ON webhook_events (entity, action);
CREATE UNIQUE INDEX index_scorers_experiment_id_scorer_name ON scorers (experiment_id, scorer_name);
CREATE INDEX index_scorer_versions_scorer_id ON scorer_versions (scorer_id);
CREATE INDEX index_evaluation_dataset_tags_dataset_id ON evaluation_dataset_tags (dataset_id);
CREATE INDEX index_evaluation_dataset_records_dataset_id ON evaluation_dataset_records (dataset_id);
CREATE INDEX index_endpoint_model_mappings_endpoint_id ON endpoint_model_mappings (endpoint_id);
CREATE INDEX index_endpoint_model_mappings_model_definition_id ON endpoint_model_mappings (model_definition_id);
CREATE INDEX index_endpoint_tags_endpoint_id ON endpoint_tags (endpoint_id);
CREATE INDEX index_trace_metrics_request_id ON trace_metrics (request_id);
CREATE UNIQUE INDEX unique_endpoint_model_linkage_mapping ON endpoint_model_mappings (endpoint_id, model_definition_id, linkage_type);
CREATE INDEX index_span_metrics_trace_id_span_id ON span_metrics (trace_id, span_id);
CREATE INDEX index_evaluation_datasets_name ON evaluation_datasets (name);
CREATE INDEX index_evaluation_datasets_created_time ON evaluation_datasets (created_time);
CREATE INDEX idx_webhooks_status ON webhooks (status);
CREATE INDEX idx_webhooks_name ON webhooks (name);
CREATE TRIGGER prevent_secrets_aad_mutation
BEFORE UPDATE ON secrets
FOR EACH ROW
WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name
BEGIN
    SELECT RAISE(ABORT, 'secret_id and secret_name are immutable (used as AAD in encryption)');
END;
CREATE INDEX index_model_definitions_secret_id ON model_definitions (secret_id);
CREATE INDEX index_model_definitions_provider ON model_definitions (provider);
CREATE INDEX index_jobs_name_status_creation_time ON jobs (job_name, workspace, status, creation_time);
CREATE INDEX idx_experiments_workspace ON experiments (workspace);
CREATE INDEX idx_registered_models_workspace ON registered_models (workspace);
CREATE INDEX idx_experiments_workspace_creation_time ON experiments (workspace, creation_time);
CREATE INDEX idx_evaluation_datasets_workspace ON evaluation_datasets (workspace);
CREATE INDEX idx_webhooks_workspace ON webhooks (workspace);
CREATE INDEX idx_secrets_workspace ON secrets (workspace);
CREATE INDEX idx_endpoints_workspace ON endpoints (workspace);
CREATE INDEX idx_model_definitions_workspace ON model_definitions (workspace);
CREATE INDEX idx_budget_policies_workspace ON budget_policies (workspace);
CREATE INDEX index_issues_experiment_id ON issues (experiment_id);
CREATE INDEX index_issues_source_run_id ON issues (source_run_id);
CREATE INDEX index_issues_status ON issues (status);
CREATE INDEX index_metrics_run_uuid_key_step ON metrics (run_uuid, "key", step);
CREATE INDEX idx_guardrails_workspace ON guardrails (workspace);
CREATE INDEX idx_guardrails_scorer ON guardrails (scorer_id, scorer_version);
CREATE INDEX idx_guardrail_configs_endpoint_id ON guardrail_configs (endpoint_id);
CREATE INDEX idx_guardrail_configs_guardrail_id ON guardrail_configs (guardrail_id);
CREATE INDEX idx_model_version_tags_workspace_name_version ON model_version_tags (workspace, name, version);
CREATE INDEX idx_registered_model_tags_workspace_name ON registered_model_tags (workspace, name);
CREATE INDEX index_label_schemas_experiment_id ON label_schemas (experiment_id);
CREATE INDEX index_review_queues_experiment_id ON review_queues (experiment_id);
CREATE INDEX index_review_queue_users_user_id ON review_queue_users (user_id);
CREATE INDEX index_review_queue_items_queue_id_status ON review_queue_items (queue_id, status);
CREATE INDEX index_review_queue_items_item_id ON review_queue_items (item_id);
CREATE INDEX index_review_queue_label_schemas_schema_id ON review_queue_label_schemas (schema_id);
CREATE INDEX idx_mcp_server_versions_latest ON mcp_server_versions (workspace, name, status, version_major DESC, version_minor DESC, version_patch DESC);
CREATE INDEX ix_mcp_access_endpoints_server_name ON mcp_access_endpoints (workspace, server_name);
CREATE INDEX ix_mcp_access_endpoints_version ON mcp_access_endpoints (workspace, server_name, server_version);
CREATE INDEX ix_mcp_access_endpoints_alias ON mcp_access_endpoints (workspace, server_name, server_alias);
CREATE INDEX idx_budget_policies_target_value ON budget_policies (target_value);
CREATE INDEX index_trace_info_experiment_id_timestamp_ms ON trace_info (experiment_id, timestamp_ms);
CREATE INDEX index_trace_info_timestamp_ms_request_id ON trace_info (timestamp_ms, request_id);
CREATE INDEX index_assessments_trace_id_created_timestamp ON assessments (trace_id, created_timestamp);
CREATE INDEX index_assessments_assessment_type ON assessments (assessment_type);
CREATE INDEX index_assessments_last_updated_timestamp ON assessments (last_updated_timestamp);
CREATE INDEX index_assessments_run_id_created_timestamp ON assessments (run_id, created_timestamp);
CREATE INDEX index_spans_experiment_id_duration ON spans (experiment_id, duration_ns);
CREATE INDEX index_spans_experiment_id_type_status ON spans (experiment_id, type, status);
CREATE INDEX index_spans_experiment_id_status_type ON spans (experiment_id, status, type);
CREATE INDEX index_spans_experiment_id_start_time ON spans (experiment_id, start_time_unix_nano);
CREATE INDEX index_trace_info_experiment_id_session_id ON trace_info (experiment_id, session_id);
CREATE INDEX idx_trace_rollups_lookup ON sql_trace_metric_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set, trace_status);
CREATE INDEX idx_span_cost_rollups_lookup ON sql_span_cost_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set, model_name, model_provider);
CREATE INDEX idx_assessment_rollups_lookup ON sql_assessment_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set);
CREATE INDEX idx_spans_cost_trace_time_cover ON spans (trace_id, start_time_unix_nano);
CREATE INDEX idx_spans_cost_exp_time_cover ON spans (experiment_id, start_time_unix_nano);
CREATE INDEX idx_assessments_exp_trace_ts ON assessments (experiment_id, trace_timestamp_ms);
CREATE INDEX idx_assessments_exp_trace_ts_name ON assessments (experiment_id, trace_timestamp_ms, name);
CREATE INDEX idx_assessments_exp_name_valid ON assessments (experiment_id, name, valid);
CREATE INDEX index_job_locks_job_id ON job_locks (job_id);
CREATE INDEX index_jobs_status_lease_expires_at ON jobs (status, lease_expires_at);
COMMIT;
